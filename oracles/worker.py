"""Asking an oracle without being harmed by it: its own process, a time limit, a second opinion.

`Worker` keeps one zygote (`oracles.zygote`) and one child that computes. A child that dies or hangs
is replaced by a fork, in milliseconds. A fault that shows again on the same problem in a fresh
child is raised, an ordinary failure of that problem; one that does not is kept as an `Incident`,
for the run to report, and the fresh child's answer counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracles.protocol import (
    Crashed,
    Domain,
    Hung,
    Malformed,
    NotStarted,
    Oracle,
    Raised,
    ask,
)
from oracles.wire import Inbox, decode_grads, encode_problem
from reference.problem import ConvGrads, ConvProblem

START_LIMIT = 180.0  # seconds for a framework's import
FORK_LIMIT = 10.0  # seconds for a fork after it
TIME_LIMIT = 30.0  # seconds for one problem
FRESH_TRIES = 3  # fresh processes in which a crash may show again

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
)
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Incident:
    """A process that died, hung or was wrong once, and not when the problem was asked again."""

    oracle: str
    words: str
    problem: ConvProblem | None
    log: str


class InProcess:
    """An oracle called directly: for our own code, and for a debugger."""

    def __init__(self, name: str, oracle: Oracle) -> None:
        self.name = name
        self.domain = oracle.domain
        self.incidents: list[Incident] = []
        self._oracle = oracle

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The oracle's answer; raises Raised or Malformed."""
        try:
            return ask(self._oracle, problem)
        except Malformed:
            raise
        except Exception as error:
            words = f"raises {type(error).__name__}: {error}"
            raise Raised(words, log=traceback.format_exc()) from error

    def renew(self) -> bool:
        """There is no process to renew: False."""
        return False

    def report(self, words: str, problem: ConvProblem | None, log: str = "") -> None:
        """Keep an incident for the run to report."""
        self.incidents.append(Incident(self.name, words, problem, log))

    def close(self) -> None:
        """Nothing to end."""


class Worker:
    """An oracle in a process of its own.

    `name` is one the registry knows, `python` the interpreter to run it with. `time_limit` is
    seconds per problem. `told` is called with a short text when something slow begins or ends, for
    a progress display.
    """

    def __init__(
        self,
        name: str,
        domain: Domain,
        *,
        python: str = sys.executable,
        time_limit: float = TIME_LIMIT,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.domain = domain
        self.incidents: list[Incident] = []
        self._python = python
        self._time_limit = time_limit
        self._told = told
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._events = b""
        self._channel: socket.socket | None = None
        self._child = 0
        self._ended: dict[str, Any] | None = None  # the zygote's report of the current child's end
        self._asked = 0  # problems that the current child has been sent
        self._last_problem: ConvProblem | None = None
        self._never_started: NotStarted | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        self._log_mark = 0

    def start(self) -> None:
        """Start the zygote without waiting for its import; later calls do nothing."""
        if self._zygote is not None:
            return
        base = self.name.partition("@")[0]
        ours, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(
                [self._python, "-m", "oracles.zygote", base, str(theirs.fileno())],
                cwd=_ROOT,
                env={**ONE_THREAD, **os.environ, "PYTHONPATH": self._python_path()},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then closes its workers
            )
        self._control = ours
        self._events = b""

    def _python_path(self) -> str:
        """What this interpreter can import, or for another one what PYTHONPATH says."""
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = sys.path if self._python == sys.executable else [p for p in inherited if p]
        return os.pathsep.join([str(_ROOT), *(str(Path(path).absolute()) for path in paths)])

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The oracle's answer to `problem`.

        Raises Crashed or Hung if a fresh process does so too, Raised with what the oracle raised,
        Malformed for an answer that is none, NotStarted if the framework could not be imported.
        """
        try:
            return self._ask(problem)
        except (Crashed, Hung) as error:
            first = error
        tries = FRESH_TRIES if isinstance(first, Crashed) else 1
        for number in range(1, tries + 1):
            self.end_child()
            try:
                grads = self._ask(problem)
            except (Crashed, Hung) as error:
                words = f"{error}, again in fresh process {number} of {tries}"
                raise type(error)(words, log=error.log) from None
        words = f"{first}; not again in {tries} fresh process{'es' * (tries > 1)}"
        self.report(words, problem, first.log)
        return grads

    def renew(self) -> bool:
        """Have the next problem answered in a new process; False if the last one was already."""
        if self._asked <= 1:
            return False
        self.end_child()
        return True

    def report(self, words: str, problem: ConvProblem | None, log: str = "") -> None:
        """Keep an incident for the run to report."""
        self.incidents.append(Incident(self.name, words, problem, log))

    def close(self) -> None:
        """End the oracle's processes; nothing can be asked any more."""
        self._end_zygote()
        self._log.close()

    def _end_zygote(self) -> None:
        self.end_child()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            try:
                self._zygote.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._zygote.kill()
                self._zygote.wait()
            self._zygote = None

    def _ask(self, problem: ConvProblem) -> ConvGrads:
        """One try, in the child that is there or in a new one."""
        channel = self._ready_channel()
        self._last_problem = problem
        self._asked += 1
        self._log_mark = os.fstat(self._log.fileno()).st_size
        sent = problem.x.nbytes + problem.w.nbytes + problem.dy.nbytes
        inbox = Inbox(limit=(64 << 20) + 16 * sent)
        deadline = time.monotonic() + self._time_limit
        try:
            channel.settimeout(self._time_limit)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                channel.sendall(encode_problem(problem))
            while (message := inbox.message()) is None:
                self._receive(channel, inbox, deadline)
            header, body = message
            status, words = header.get("status"), str(header.get("message", ""))
            if status == "answered":
                return decode_grads(header, body)
        except TimeoutError:
            self.end_child()
            words = f"hangs: no answer within {self._time_limit:g} s"
            raise Hung(words, log=self._log_tail()) from None
        except BaseException:  # an answer that still comes would be taken for the next one's
            self.end_child()
            raise
        if status == "raised":
            raise Raised(f"raises {words}", log=str(header.get("traceback", "")))
        raise Malformed(words or f"answers with the status {status!r}")

    def _receive(self, channel: socket.socket, inbox: Inbox, deadline: float) -> None:
        """Wait for bytes from the child into `inbox`; raises Crashed if it ends before."""
        assert self._control is not None
        remaining = max(deadline - time.monotonic(), 0)
        readable, _, _ = select.select([channel, self._control], [], [], remaining)
        if not readable:
            raise TimeoutError
        if channel in readable:
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = channel.recv(1 << 20)
            inbox.feed(data)
            if data:
                return
            deadline = min(deadline, time.monotonic() + 2)
            with contextlib.suppress(TimeoutError):
                while self._ended is None:
                    self._read_event(deadline)
        else:
            self._read_event(deadline)
            if self._ended is None or select.select([channel], [], [], 0)[0]:
                return  # another child's end, or the answer came before the end
        raise Crashed(self._forget_child(), log=self._log_tail())

    def _forget_child(self) -> str:
        """Let go of a child that ended or closed its channel; returns the words for it."""
        ended = self._ended
        self.end_child()
        return _ending(ended["status"]) if ended else "closes its channel without an answer"

    def _ready_channel(self) -> socket.socket:
        """The channel to a live child; one that died since its last answer is an incident."""
        try:
            while self._control is not None and select.select([self._control], [], [], 0)[0]:
                self._read_event(time.monotonic() + 1)
        except Crashed as error:
            self.report(str(error), self._last_problem, self._log_tail())
        if self._ended is not None:
            log = self._log_tail()
            self.report(f"{self._forget_child()}, after it had answered", self._last_problem, log)
        return self._channel if self._channel is not None else self._fork()

    def _fork(self) -> socket.socket:
        """Have the zygote fork a new child; returns the channel to it."""
        if self._never_started is not None:
            raise self._never_started
        started = self._zygote is not None and self._zygote.poll() is None
        if not started:
            self._end_zygote()
        self.start()
        assert self._control is not None
        deadline = time.monotonic() + (FORK_LIMIT if started else START_LIMIT)
        ours, theirs = socket.socketpair()
        try:
            with theirs, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._control, [b"F"], [theirs.fileno()])
            if not started:
                self._told("importing")
            while (event := self._read_event(deadline))["event"] != "forked":
                if event["event"] == "failed":
                    raise NotStarted(f"does not start: {event['message']}")
        except (Crashed, TimeoutError, NotStarted) as error:
            ours.close()
            self._end_zygote()
            if started:  # whoever stopped it, it was not this problem
                words = str(error) or "loses its zygote, which hangs"
                self.report(words, self._last_problem, self._log_tail())
                return self._fork()
            if isinstance(error, TimeoutError):
                error = NotStarted(f"does not start: no import within {START_LIMIT:g} s")
            elif isinstance(error, Crashed):
                log = self._log_tail() or "nothing"
                error = NotStarted(f"does not start: {error}; it wrote: {log}")
            self._never_started = error
            raise error from None
        finally:
            self._told("")
        self._child, self._channel, self._ended = event["pid"], ours, None
        self._asked = 0
        return ours

    def _read_event(self, deadline: float) -> dict[str, Any]:
        """The zygote's next event; raises Crashed if it is gone, TimeoutError after `deadline`."""
        assert self._control is not None
        while b"\n" not in self._events:
            remaining = deadline - time.monotonic()
            if not select.select([self._control], [], [], max(remaining, 0))[0]:
                raise TimeoutError
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = self._control.recv(4096)
            if not data:
                raise Crashed(self._zygote_ended())
            self._events += data
        line, self._events = self._events.split(b"\n", 1)
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "ended" and event["pid"] == self._child:
            self._ended = event
        return event

    def _zygote_ended(self) -> str:
        """The words for a zygote that is gone; everything is cleared for a new one."""
        assert self._zygote is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._zygote.wait(timeout=2)
        words = f"loses its zygote, which {_ending(self._zygote.returncode or 0)}"
        self._end_zygote()
        return words

    def end_child(self) -> None:
        """Kill the child, if there is one, and all that it started."""
        if self._channel is None:
            return
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        self._channel, self._child, self._ended = None, 0, None

    def _log_tail(self) -> str:
        """The end of what the oracle's processes wrote to stdout and stderr since the question."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(size - 4000, self._log_mark)
        tail = os.pread(self._log.fileno(), size - start, start)
        return tail.decode(errors="replace").strip()


def _ending(code: int) -> str:
    """How a process ended, from a returncode in subprocess' sense."""
    if code >= 0:
        return f"exits with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"crashes with {name}"


Connection = InProcess | Worker
