"""Asking an oracle without being harmed by it: its own process, a time limit, a second opinion.

`Worker` asks a child of `oracles.process`. A fault that can be shown again in fresh children
(`oracles.triage`) is raised, an ordinary failure of a problem; one that cannot is kept as an
`Incident`, for the run to report, and the fresh child's answer counts.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from oracles import triage
from oracles.process import Process, nothing
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
from oracles.wire import encode_problem
from reference.problem import ConvGrads, ConvProblem

TIME_LIMIT = 30.0  # seconds for one problem
MOST_BEFORE = 200  # problems that may be needed before another for that to be a finding


Wrong = Callable[[ConvProblem, ConvGrads], OracleError | None]
"""Says what is wrong with an answer, None if nothing is."""


def never_wrong(problem: ConvProblem, grads: ConvGrads) -> None:
    """Takes every answer."""
    del problem, grads


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
        self._may_ask = may_ask or domain.accepts
        self._told = told
        self._process = Process(
            name,
            domain.results,
            python=python,
            environment=environment or {},
            time_limit=time_limit,
            told=told,
            asked=asked or (lambda *_: None),
            report=lambda words, log: self._report(words, None, log),
        )
        self._careful = 0  # times that each problem is asked in a new child; 0: once, in the same
        self._confirmed: dict[bytes, OracleError] = {}
        self._believed = False  # what is wrong, without being asked again in a new child

    def start(self) -> None:
        """Start the zygote without waiting for its import; later calls do nothing."""
        self._process.start()

    def begin(self, problem: ConvProblem) -> None:
        """Have the oracle compute already; `grads` is to be called with the same problem later.

        In the order in which they are begun, and for nothing else in between. A second one waits
        in the child's socket, so that the child need not wait for it. Whatever goes wrong, `grads`
        raises it.
        """
        if not self._careful and not self._confirmed:
            self._process.begin(problem)

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
        self._process.renew_if_full()
        answered = len(self._process.answered)
        try:
            grads = self._process.ask(problem, meanwhile)
            first = wrong(problem, grads)
            if first is None:
                return grads
            self._process.answered.pop()
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
        history = tuple(self._process.answered)
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
            self._process.end_child()  # which has shown a fault, and may show it for others now
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
        self._report(words, problem, first.log, history)
        return self._last

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
        self._process.end_child()

    def _end_lost_child(self) -> None:
        """End a child that has shown a fault if it no longer answers as it did before.

        An error on a GPU ends its context, and all that is asked there afterwards raises too.
        """
        if not self._process.has_child:
            return
        if self._process.first is None:
            self._process.end_child()
            return
        problem, before = self._process.first
        try:
            now = self._process.ask(problem)
        except NotStarted:
            raise
        except OracleError:
            self._process.end_child()
            return
        self._process.answered.pop()
        if not _same(before, now):
            self._process.end_child()

    def _rehearse(self, problems: Sequence[ConvProblem], wrong: Wrong) -> triage.Shown | None:
        self._process.end_child()
        for index, problem in enumerate(problems):
            try:
                self._last = self._process.ask(problem)
            except NotStarted:
                raise
            except OracleError as error:
                return triage.Shown(index, error)
            if (difference := wrong(problem, self._last)) is not None:
                self._process.answered.pop()  # it holds what was answered rightly
                return triage.Shown(index, difference)
        return None

    def _report(
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
        self._process.close()


def _same(one: ConvGrads, other: ConvGrads) -> bool:
    """Whether two answers are the same, bit for bit."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in RESULTS)
    return all(
        (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes()) for a, b in pairs
    )


def _fingerprint(problem: ConvProblem) -> bytes:
    """What only this problem has, value for value."""
    return encode_problem(problem)


Connection = InProcess | Worker
