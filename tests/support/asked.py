"""What each oracle is being asked, on disk: a run that is killed leaves its last question behind.

A file holds messages of `oracles.wire`: the oracle's name and how many problems follow, then these,
two where one was sent behind another. It is locked as long as the run lives. The next run finds
those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from oracles.protocol import Malformed
from oracles.wire import Inbox, decode_problem, frame
from reference.problem import ConvProblem

_PREFIX = ".asked-"


class Asked:
    """The file of one oracle in one run; where the directory cannot be written, there is none."""

    def __init__(self, oracle: str, directory: Path) -> None:
        self._oracle = oracle
        self._last = b""
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            self._descriptor, path = tempfile.mkstemp(prefix=_PREFIX, dir=directory)
            self._path = Path(path)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __call__(self, message: bytes, behind: bool = False) -> None:
        """Write down a problem, in the form of `oracles.wire`, perhaps `behind` the one before."""
        messages = [self._last, message] if behind else [message]
        self._last = message
        if self._descriptor is not None:
            head = frame({"oracle": self._oracle, "problems": len(messages)})
            with contextlib.suppress(OSError):  # a full disk is no reason to stop
                os.pwrite(self._descriptor, b"".join([head, *messages]), 0)

    def close(self) -> None:
        """The run has ended by itself: remove the file."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def left_behind(directory: Path) -> list[tuple[str, ConvProblem]]:
    """The oracle and each problem of the files that their runs have left, which are removed."""
    found: list[tuple[str, ConvProblem]] = []
    for path in sorted(directory.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its run goes on
            with contextlib.suppress(Malformed, KeyError, ValueError, TypeError):
                found += _read(file.read())
            path.unlink(missing_ok=True)
    return found


def _read(content: bytes) -> list[tuple[str, ConvProblem]]:
    inbox = Inbox(limit=1 << 40)
    inbox.feed(content)
    if (head := inbox.message()) is None:
        raise ValueError("the file ends too early")
    problems = (inbox.message() for _ in range(int(head[0]["problems"])))
    oracle = str(head[0]["oracle"])
    return [(oracle, decode_problem(*problem)) for problem in problems if problem is not None]
