"""An oracle's process: a zygote (`oracles.zygote`), and the child that it has forked last.

`Process` makes one try at a time, and says what the child answers or how it fails; what to think of
that is for `oracles.worker`. A child that is gone is replaced by a fork, in milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oracles.protocol import Crashed, Hung, Malformed, NotStarted, OracleError, Raised
from oracles.wire import Inbox, decode_grads, encode_problem
from reference.problem import ConvGrads, ConvProblem

START_LIMIT = 180.0  # seconds for a framework's import
FORK_LIMIT = 10.0  # seconds for a fork after it
LOG_LIMIT = 64 << 20  # bytes that an oracle may write to stdout and stderr during one problem
HISTORY_PROBLEMS = 5000  # most that one child is asked, so that its whole history is known
HISTORY_BYTES = 64 << 20
_BEHIND = 1 << 16  # bytes of a problem that a socket holds while the child computes another

ENVIRONMENT = {  # of an oracle's process, where nothing else is said: one thread, and
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # glibc fills what it allocates and frees, so that memory which is never written shows at once.
    # On TensorFlow's depthwise gradient for an empty batch: 40 of 40 new processes, without it 33.
    # (glibc.malloc.check=3 found no more than this, and heap corruption no sooner.)
    "MALLOC_PERTURB_": "165",
}
_ROOT = Path(__file__).resolve().parent.parent


def nothing() -> None:
    """What is done while an oracle computes, unless somebody has other work."""


class _Sent(NamedTuple):
    """A problem that a child is to answer; what went wrong when it was sent, if anything."""

    problem: ConvProblem
    number: int = 0  # of the message; 0: not sent yet
    size: int = 0  # of the message, in bytes
    log_mark: int = 0  # how long the log was then
    error: OracleError | TimeoutError | None = None


def environment_of(python: str, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of an oracle's process under `python`, with `own` variables.

    It imports what this interpreter can, another one what PYTHONPATH says, and in the end what is
    in the directory that one stands in.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = sys.path if python == sys.executable else [path for path in inherited if path]
    every = [str(_ROOT), *(str(Path(path).absolute()) for path in paths), str(Path.cwd())]
    path = os.pathsep.join(dict.fromkeys(every))
    return {**ENVIRONMENT, **os.environ, **own, "PYTHONPATH": path}


class Process:
    """The processes of oracle `name`, which answers with `results`.

    The rest is as for `oracles.worker.Worker`, but for `report`, which is called with words and the
    log where a process ends of which no problem is to blame.
    """

    def __init__(
        self,
        name: str,
        results: tuple[str, ...],
        *,
        python: str,
        environment: Mapping[str, str],
        time_limit: float,
        told: Callable[[str], None],
        asked: Callable[[bytes, bool], None],
        report: Callable[[str, str], None],
    ) -> None:
        self.answered: list[ConvProblem] = []  # by the current child, in order
        self.first: tuple[ConvProblem, ConvGrads] | None = None  # of all answers
        self._name = name
        self._results = results
        self._python = python
        self._environment = dict(environment)
        self._time_limit = time_limit
        self._told = told
        self._write_down = asked
        self._report = report
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._events = b""
        self._channel: socket.socket | None = None
        self._child = 0
        self._ended: dict[str, Any] | None = None  # the zygote's report of the current child's end
        self._answered_bytes = 0
        self._has_imported = False  # the zygote, and has forked
        self._number = 0  # of the last problem sent
        self._ahead: list[_Sent] = []  # what is begun and not asked for yet, in order
        self._inbox = Inbox(limit=0)  # of the current child
        self._never_started: NotStarted | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)  # so that it can be cut short
        self._log_mark = 0

    @property
    def has_child(self) -> bool:
        """Whether there is one, as far as is known."""
        return self._channel is not None

    def start(self) -> None:
        """Start the zygote without waiting for its import; later calls do nothing."""
        if self._zygote is not None:
            return
        base = re.split(r"[\[@]", self._name)[0]
        ours, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(
                [self._python, "-P", "-m", "oracles.zygote", base, str(theirs.fileno())],
                env=environment_of(self._python, self._environment),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then closes its workers
            )
        self._control = ours
        self._events = b""

    def begin(self, problem: ConvProblem) -> None:
        """Send `problem` already; `ask` is to be called with it later, and raises what goes wrong.

        In the order in which they are begun, and for nothing else in between. A second one waits
        in the child's socket, so that the child need not wait for it.
        """
        if not self._ahead:
            self.renew_if_full()
        self._ahead.append(_Sent(problem))
        self._send_ahead()

    def _send_ahead(self) -> None:
        """Send what is begun, as far as the child takes it: one, and a small one behind that."""
        for place, sent in enumerate(self._ahead[:2]):
            if sent.number or sent.error:
                continue
            before, problem, behind = self._ahead[:place], sent.problem, place > 0
            after = self._ahead[place + 1 :]
            if behind and (self._channel is None or _bytes_of(problem) > _BEHIND):
                return
            try:
                channel = self._channel if behind else self._ready_channel()
                assert channel is not None
                sent = self._send(channel, problem, behind=behind)
            except (OracleError, TimeoutError) as error:  # for `ask`; the child may be gone
                sent = _Sent(problem, error=error)
            self._ahead = [*before, sent, *after]

    def ask(self, problem: ConvProblem, meanwhile: Callable[[], object] = nothing) -> ConvGrads:
        """One try, in the child that is there or in a new one; `meanwhile` is called once.

        Raises Crashed, Hung, Malformed or Raised, of this problem only, and NotStarted.
        """
        sent = self._ahead.pop(0) if self._ahead else None
        if sent is not None and sent.problem is not problem:
            self.end_child()  # its answer would be taken for this one's
            sent = None
        try:
            if sent is not None and sent.error is not None:
                raise sent.error
            if sent is None or not sent.number:
                sent = self._send(self._ready_channel(), problem)
            channel, inbox, self._log_mark = self._channel, self._inbox, sent.log_mark
            assert channel is not None
            inbox.limit = (64 << 20) + 16 * sent.size
            meanwhile()
            deadline = time.monotonic() + self._time_limit  # the oracle is not to pay for that
            while (answer := inbox.message()) is None:
                self._receive(channel, inbox, deadline)
            self._send_ahead()
            header, body = answer
            if (number := header.get("number")) != sent.number:
                raise Malformed(f"answers question {number!r:.20} when asked {sent.number}")
            status, words = header.get("status"), str(header.get("message", ""))
            if status == "answered":
                grads = decode_grads(header, body, self._results)
                self.answered.append(problem)
                self._answered_bytes += sent.size
                self.first = self.first or (problem, grads)
                return grads
        except TimeoutError:
            self.end_child()
            words = f"hangs: no answer within {self._time_limit:g} s"
            raise Hung(words, log=self._log_tail()) from None
        except Raised:  # it could not be sent
            raise
        except BaseException:  # an answer that still comes would be taken for the next one's
            self.end_child()
            raise
        if status == "raised":
            raise Raised(f"raises {words}", log=str(header.get("traceback", "")))
        raise Malformed(words or f"answers with the status {status!r}")

    def _send(self, channel: socket.socket, problem: ConvProblem, *, behind: bool = False) -> _Sent:
        """Write `problem` down and send it, perhaps `behind` another; may raise Raised."""
        self._number += 1
        message = encode_problem(problem, self._number)
        self._write_down(message, behind)
        mark = self._log_size()
        if mark > LOG_LIMIT and not behind:
            os.ftruncate(self._log.fileno(), 0)
            mark = self._log_mark = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.sendall(message)
        return _Sent(problem, self._number, len(message), mark)

    def _receive(self, channel: socket.socket, inbox: Inbox, deadline: float) -> None:
        """Wait for bytes from the child into `inbox`; raises Crashed if it ends before."""
        assert self._control is not None
        remaining = max(deadline - time.monotonic(), 0)
        readable, _, _ = select.select([channel, self._control], [], [], min(remaining, 0.5))
        if not readable:
            if self._log_size() - self._log_mark > LOG_LIMIT:
                raise Malformed(f"writes more than {LOG_LIMIT >> 20} MiB to stdout and stderr")
            if remaining > 0.5:
                return
            raise TimeoutError
        if channel in readable:
            with contextlib.suppress(ConnectionResetError):
                if inbox.receive(channel):
                    return
            deadline = min(deadline, time.monotonic() + 2)
            with contextlib.suppress(TimeoutError):
                while self._ended is None:
                    self._read_event(deadline)
        else:
            self._read_event(deadline)
            if self._ended is None or select.select([channel], [], [], 0)[0]:
                return  # another child's end, or the answer came before the end
        half = f" after {inbox.waiting} bytes of an answer" if inbox.waiting else ""
        raise Crashed(f"{self._forget_child()}{half}", log=self._log_tail())

    def _forget_child(self) -> str:
        """Let go of a child that ended or closed its channel; returns the words for it."""
        ended = self._ended
        self.end_child()
        return ending(ended["status"]) if ended else "closes its channel without an answer"

    def _ready_channel(self) -> socket.socket:
        """The channel to a live child; raises Crashed if one has died since its last answer."""
        try:
            # what it says before it has imported, `_fork` is to hear
            while self._control is not None and self._has_imported:
                if not select.select([self._control], [], [], 0)[0]:
                    break
                self._read_event(time.monotonic() + 1)
        except Crashed as error:
            self._report(str(error), self._log_tail())
        if self._ended is not None:
            log = self._log_tail()
            raise Crashed(self._forget_child(), log=log)
        return self._channel if self._channel is not None else self._fork()

    def _fork(self) -> socket.socket:
        """Have the zygote fork a new child; returns the channel to it."""
        if self._never_started is not None:
            raise self._never_started
        if self._has_imported and self._zygote is not None and self._zygote.poll() is not None:
            self._end_zygote()
        started = self._has_imported
        self.start()  # one that ended before it was asked is heard below
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
                self._report(words, self._log_tail())
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
        self._has_imported = True
        self._child, self._channel, self._ended = event["pid"], ours, None
        self.answered, self._answered_bytes, self._inbox = [], 0, Inbox(limit=0)
        ours.settimeout(self._time_limit)
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
        words = f"loses its zygote, which {ending(self._zygote.returncode or 0)}"
        self._end_zygote()
        return words

    def end_child(self) -> None:
        """Kill the child, if there is one, and all that it started."""
        self._ahead = []
        if self._channel is None:
            return
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        self._channel, self._child, self._ended = None, 0, None

    def _log_size(self) -> int:
        return os.fstat(self._log.fileno()).st_size

    def _log_tail(self) -> str:
        """The end of what the oracle's processes wrote to stdout and stderr since the question."""
        size = self._log_size()
        start = max(size - 4000, self._log_mark)
        tail = os.pread(self._log.fileno(), size - start, start)
        return tail.decode(errors="replace").strip()

    def renew_if_full(self) -> None:
        """Have a new process where there is no room for more history."""
        if len(self.answered) >= HISTORY_PROBLEMS or self._answered_bytes >= HISTORY_BYTES:
            self.end_child()

    def close(self) -> None:
        """End all; nothing can be asked any more."""
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
        self._has_imported = False


def _bytes_of(problem: ConvProblem) -> int:
    """Of its arrays; twice as many for small ones, and for what a message has beside them."""
    return 2 * (problem.x.nbytes + problem.w.nbytes + problem.dy.nbytes)


def ending(code: int) -> str:
    """How a process ended, from a returncode in subprocess' sense."""
    if code >= 0:
        return f"exits with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"crashes with {name}"
