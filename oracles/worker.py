"""Asking an oracle without being harmed by it: its own process, a time limit, a second opinion.

`Worker` keeps one zygote (`oracles.zygote`) and one child that computes. A child that dies or hangs
is replaced by a fork, in milliseconds. A fault that can be shown again in fresh children
(`oracles.triage`) is raised, an ordinary failure of a problem; one that cannot is kept as an
`Incident`, for the run to report, and the fresh child's answer counts.
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
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from oracles import triage
from oracles.protocol import (
    RESULTS,
    Caller,
    Crashed,
    Domain,
    Evidence,
    Hung,
    Malformed,
    NotStarted,
    Oracle,
    OracleError,
    Raised,
)
from oracles.wire import Inbox, decode_grads, encode_problem
from reference.problem import ConvGrads, ConvProblem

START_LIMIT = 180.0  # seconds for a framework's import
FORK_LIMIT = 10.0  # seconds for a fork after it
TIME_LIMIT = 30.0  # seconds for one problem
LOG_LIMIT = 64 << 20  # bytes that an oracle may write to stdout and stderr during one problem
HISTORY_PROBLEMS = 5000  # most that one process is asked, so that its whole history is known
HISTORY_BYTES = 64 << 20
MOST_BEFORE = 200  # problems that may be needed before another for that to be a finding
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


Wrong = Callable[[ConvProblem, ConvGrads], OracleError | None]
"""Says what is wrong with an answer, None if nothing is."""


def never_wrong(problem: ConvProblem, grads: ConvGrads) -> None:
    """Takes every answer."""
    del problem, grads


def nothing() -> None:
    """What is done while an oracle computes, unless somebody has other work."""


class _Sent(NamedTuple):
    """A problem that a child is to answer; what went wrong when it was sent, if anything."""

    problem: ConvProblem
    number: int = 0  # of the message; 0: not sent yet
    size: int = 0  # of the message, in bytes
    log_mark: int = 0  # how long the log was then
    error: OracleError | TimeoutError | None = None


@dataclass(frozen=True)
class Incident:
    """A process that died, hung or was wrong once, and not when the problem was asked again.

    `before` are the problems that the process had been asked before, the latest last.
    """

    oracle: str
    words: str
    problem: ConvProblem | None
    log: str
    before: tuple[ConvProblem, ...] = ()


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


class InProcess:
    """An oracle called directly: for our own code, and for a debugger."""

    def __init__(self, name: str, oracle: Oracle) -> None:
        self.name = name
        self.domain = oracle.domain
        self.incidents: list[Incident] = []
        self._ask = Caller(oracle)

    def grads(
        self,
        problem: ConvProblem,
        wrong: Wrong = never_wrong,
        meanwhile: Callable[[], object] = nothing,
    ) -> ConvGrads:
        """The oracle's answer; raises Raised, Malformed, or what `wrong` says of the answer."""
        meanwhile()
        try:
            grads = self._ask(problem)
        except Malformed:
            raise
        except Exception as error:
            words = f"raises {type(error).__name__}: {error}"
            raise Raised(words, log=traceback.format_exc()) from error
        if (difference := wrong(problem, grads)) is not None:
            raise difference
        return grads

    def begin(self, problem: ConvProblem) -> None:
        """There is no process that could compute meanwhile."""

    def start(self) -> None:
        """There is no process to start."""

    def calm(self) -> None:
        """There is no process to be careful with."""

    def renew(self) -> None:
        """There is no process to renew."""

    def close(self) -> None:
        """Nothing to end."""


class Worker:
    """An oracle in a process of its own.

    `name` is one the registry knows, `python` the interpreter to run it with, `environment` what is
    set there beside what is inherited. `time_limit` is seconds per problem. `told` is called with a
    short text when something slow begins or ends, for a progress display. `may_ask` says which
    problems may be tried in the search for a smaller one; by default those in `domain`. `asked`
    is called with every problem, in the form of `oracles.wire`, before it is asked, and whether
    the one before is not answered yet.
    """

    def __init__(
        self,
        name: str,
        domain: Domain,
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        time_limit: float = TIME_LIMIT,
        told: Callable[[str], None] = lambda _: None,
        may_ask: Callable[[ConvProblem], bool] | None = None,
        asked: Callable[[bytes, bool], None] | None = None,
    ) -> None:
        self.name = name
        self.domain = domain
        self.incidents: list[Incident] = []
        self._python = python
        self._environment = dict(environment or {})
        self._may_ask = may_ask or domain.accepts
        self._write_down = asked or (lambda *_: None)
        self._time_limit = time_limit
        self._told = told
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._events = b""
        self._channel: socket.socket | None = None
        self._child = 0
        self._ended: dict[str, Any] | None = None  # the zygote's report of the current child's end
        self._history: list[ConvProblem] = []  # what the current child has answered rightly
        self._history_bytes = 0
        self._sound: tuple[ConvProblem, ConvGrads] | None = None  # what was answered first of all
        self._has_imported = False  # the zygote, and has forked
        self._number = 0  # of the last problem sent
        self._ahead: list[_Sent] = []  # what was sent before its answer is asked for, in order
        self._inbox = Inbox(limit=0)  # of the current child
        self._careful = 0  # times that each problem is asked in a new child; 0: once, in the same
        self._confirmed: dict[bytes, OracleError] = {}
        self._believed = False  # what is wrong, without being asked again in a new child
        self._never_started: NotStarted | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)  # so that it can be cut short
        self._log_mark = 0

    def start(self) -> None:
        """Start the zygote without waiting for its import; later calls do nothing."""
        if self._zygote is not None:
            return
        base = re.split(r"[\[@]", self.name)[0]
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
        """Have the oracle compute already; `grads` is to be called with the same problem later.

        In the order in which they are begun, and for nothing else in between. A second one waits
        in the child's socket, so that the child need not wait for it. Whatever goes wrong, `grads`
        raises it.
        """
        if self._careful or self._confirmed:
            return
        if not self._ahead:
            self._renew_if_full()
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
            except (OracleError, TimeoutError) as error:  # `grads` raises it; the child may be gone
                sent = _Sent(problem, error=error)
            self._ahead = [*before, sent, *after]

    def grads(
        self,
        problem: ConvProblem,
        wrong: Wrong = never_wrong,
        meanwhile: Callable[[], object] = nothing,
    ) -> ConvGrads:
        """The oracle's answer to `problem`, if `wrong` finds nothing wrong with it.

        `meanwhile` is called once, as a rule while the oracle computes.

        Raises, with the evidence, Crashed or Hung if a new process does so too, Raised with what
        the oracle raised, Malformed for an answer that is none, and what `wrong` says. The evidence
        may blame a problem that was asked before. Raises NotStarted if the framework cannot be
        imported. A problem once found to do so is not asked again before `calm` is called.
        """
        if known := self._confirmed.get(_fingerprint(problem)) if self._confirmed else None:
            raise known
        if self._careful:
            meanwhile()
            return self._ask_carefully(problem, wrong)
        self._renew_if_full()
        answered = len(self._history)
        try:
            grads = self._ask(problem, meanwhile)
            first = wrong(problem, grads)
            if first is None:
                return grads
            self._history.pop()
        except (Crashed, Hung, Malformed) as error:
            first = error
        except Raised as error:
            if not self._may_ask(problem):
                self._end_lost_child()
                raise
            first = error
        if not triage.is_sudden(first) and (self._believed or not answered):
            self._end_lost_child()
            raise first  # answered: 0 if the process was new
        history = tuple(self._history)
        self._told("triage of")
        try:
            found = triage.explain(
                lambda problems: self._rehearse(problems, wrong),
                problem,
                history,
                first,
                self._may_ask,
            )
        finally:
            self._told("")
            self.end_child()  # which has shown a fault, and may show it for others now
        again = "not again in fresh processes"
        before = found.evidence.before if found is not None and found.evidence is not None else ()
        if len(before) > MOST_BEFORE:  # nobody could learn from it
            found, again = None, f"again only after {len(before)} other problems"
        if found is None and (shown := self._rehearse([problem], wrong)) is not None:
            found = shown.error
            found.evidence = Evidence(problem)
        if found is not None:
            self._remember(problem, found)
            raise found
        words = f"{first}; {again}"
        self.report(words, problem, first.log, history)
        return self._last

    def _renew_if_full(self) -> None:
        """Have a new process where there is no room for more history."""
        if len(self._history) >= HISTORY_PROBLEMS or self._history_bytes >= HISTORY_BYTES:
            self.end_child()

    def _ask_carefully(self, problem: ConvProblem, wrong: Wrong) -> ConvGrads:
        """Ask in a new process, as often as it took for the last fault to show, and more."""
        shown = self._rehearse([problem] * self._careful, wrong)
        if shown is None:
            return self._last
        error, evidence = shown.error, Evidence(problem, (), shown.index + 1)
        error.evidence = evidence
        if triage.is_sudden(error):
            error.args = (f"{error}, in a fresh process{evidence}",)
        self._remember(problem, error)
        raise error

    def _remember(self, problem: ConvProblem, found: OracleError) -> None:
        """Answer the same for the same problem, and be as careful as the evidence asks for."""
        evidence = found.evidence
        assert evidence is not None
        alone = evidence.problem is problem and not evidence.before
        if alone and evidence.asks == 1 and not triage.is_sudden(found):
            self._believed = True  # it is wrong by itself, whenever it is asked
            return
        self._confirmed[_fingerprint(problem)] = found
        if alone:
            repeats = 1 if found.kind == Hung.kind else max(2, 4 * evidence.asks)
            self._careful = max(self._careful, min(triage.REPEATS, repeats))

    def calm(self) -> None:
        """Forget the faults found so far: the next problem is asked once, in the usual process."""
        self._careful = 0
        self._believed = False
        self._confirmed.clear()

    def renew(self) -> None:
        """Have the next problem answered in a new process."""
        self.end_child()

    def _end_lost_child(self) -> None:
        """End a child that has shown a fault if it no longer answers as it did before.

        An error on a GPU ends its context, and all that is asked there afterwards raises too.
        """
        if self._channel is None:
            return
        if self._sound is None:
            self.end_child()
            return
        problem, before = self._sound
        try:
            now = self._ask(problem)
        except NotStarted:
            raise
        except OracleError:
            self.end_child()
            return
        self._history.pop()
        if not _same(before, now):
            self.end_child()

    def _rehearse(self, problems: Sequence[ConvProblem], wrong: Wrong) -> triage.Shown | None:
        self.end_child()
        for index, problem in enumerate(problems):
            try:
                self._last = self._ask(problem)
            except NotStarted:
                raise
            except OracleError as error:
                return triage.Shown(index, error)
            if (difference := wrong(problem, self._last)) is not None:
                self._history.pop()  # it holds what was answered rightly
                return triage.Shown(index, difference)
        return None

    def report(
        self,
        words: str,
        problem: ConvProblem | None,
        log: str = "",
        before: tuple[ConvProblem, ...] = (),
    ) -> None:
        """Keep an incident for the run to report."""
        self.incidents.append(Incident(self.name, words, problem, log, before))

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
        self._has_imported = False

    def _ask(self, problem: ConvProblem, meanwhile: Callable[[], object] = nothing) -> ConvGrads:
        """One try, in the child that is there or in a new one."""
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
                grads = decode_grads(header, body, self.domain.results)
                self._history.append(problem)
                self._history_bytes += sent.size
                self._sound = self._sound or (problem, grads)
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
            while self._control is not None and select.select([self._control], [], [], 0)[0]:
                self._read_event(time.monotonic() + 1)
        except Crashed as error:
            self.report(str(error), None, self._log_tail())
        if self._ended is not None:
            log = self._log_tail()
            raise Crashed(self._forget_child(), log=log)
        return self._channel if self._channel is not None else self._fork()

    def _fork(self) -> socket.socket:
        """Have the zygote fork a new child; returns the channel to it."""
        if self._never_started is not None:
            raise self._never_started
        alive = self._zygote is not None and self._zygote.poll() is None
        if not alive:
            self._end_zygote()
        started = alive and self._has_imported
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
                self.report(words, None, self._log_tail())
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
        self._history, self._history_bytes, self._inbox = [], 0, Inbox(limit=0)
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


def _same(one: ConvGrads, other: ConvGrads) -> bool:
    """Whether two answers are the same, bit for bit."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in RESULTS)
    return all(
        (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes()) for a, b in pairs
    )


def _bytes_of(problem: ConvProblem) -> int:
    """Of its arrays; twice as many for small ones, and for what a message has beside them."""
    return 2 * (problem.x.nbytes + problem.w.nbytes + problem.dy.nbytes)


def _fingerprint(problem: ConvProblem) -> bytes:
    """What only this problem has, value for value."""
    return encode_problem(problem)


def ending(code: int) -> str:
    """How a process ended, from a returncode in subprocess' sense."""
    if code >= 0:
        return f"exits with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"crashes with {name}"


Connection = InProcess | Worker
