"""Asks the chosen oracles, leaves out what the ledger knows, and keeps count."""

from __future__ import annotations

import contextlib
import math
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import reject, target

from oracles import divergences, triage
from oracles.compare import Disagreement, Question, Verdict, expected_of, judge
from oracles.protocol import Domain, Evidence, NotStarted, OracleError, describe
from oracles.registry import Entry, connect
from oracles.triage import neighbours
from oracles.worker import MOST_BEFORE, Connection, Incident
from reference.problem import ConvGrads, ConvProblem
from reference.rounding import FACTORS, FORMATS, RESULTS, absolute_sums
from tests.support import drift
from tests.support.asked import Asked, left_behind
from tests.support.budget import ENDLESS, Budget, OutOfTime
from tests.support.classes import Class, region_names
from tests.support.coverage import Met, coverage_of
from tests.support.fixed import probes
from tests.support.proposals import Proposal, Seen, manner_of
from tests.support.regions import REGIONS, regions_of
from tests.support.regressions import (
    SEEN_ONCE,
    Kept,
    kept_files,
    replay_command,
    save,
    save_worst,
)
from tests.support.reporting import Finding, Tally, finding_of
from tests.support.scripts import standalone

_MOST_FINDINGS = 30  # in one test that keeps going
_EXPLORING = 10.0  # seconds
_EXPLORED = 400  # random problems
_REDUCING = 20.0  # seconds


class FoundElsewhere(BaseException):
    """A failure of which the problem in hand is innocent, or not alone guilty.

    Not an Exception: Hypothesis would try in vain to make the problem in hand smaller.
    """

    def __init__(self, failure: Disagreement) -> None:
        super().__init__()
        self.failure = failure


class Late(BaseException):
    """A verdict other than "agrees" on `problem`, asked before the one in hand.

    Not an Exception: Hypothesis would take the problem in hand to be wrong. Nothing of the verdict
    has been counted.
    """

    def __init__(self, problem: ConvProblem, verdict: Verdict, seconds: float) -> None:
        super().__init__()
        self.problem = problem
        self.verdict = verdict
        self.seconds = seconds


class _Pending(NamedTuple):
    """A problem that an oracle is computing; the seconds spent on it; what is to be done then."""

    question: Question
    seconds: float
    is_weak: bool
    agreed: Callable[[], None]


class Verification:
    """One run's oracles, each connected once.

    `activity` says what is slow just now; `kept` are the counterexamples to begin with, those in
    the directory `regressions`, or `replay`; `must_ask` says that a replay in which the one oracle
    is not asked is no success. Without `ledger` every oracle is asked for everything that it
    accepts; `keep_going` leaves out what has been found and looks for more. `baseline` is what the
    oracles' exactness is held against, `seed` what problems are mixed and drawn with; random ones
    are others each time if it `varies`. `budget` is the time that there is, `chosen` are the
    oracles that the user has named.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tally: Tally,
        *,
        in_process: bool,
        time_limit: float,
        regressions: Path,
        replay: Sequence[Path] = (),
        ledger: bool = True,
        keep_going: bool = False,
        baseline: drift.Rows | None = None,
        seed: int = 0,
        budget: Budget = ENDLESS,
        chosen: Collection[str] = (),
        varies: bool = False,
    ) -> None:
        self.tally = tally
        self.budget = budget
        self._chosen = chosen
        self.seed = seed
        self._varies = varies
        self.recovered = [] if replay else self._recover(regressions)
        self.kept = list(replay) or kept_files(regressions)
        self.must_ask = bool(replay) and len(entries) == 1
        self._regressions = regressions
        self.activity = ""
        self._entries = {entry.name: entry for entry in entries}
        self._in_process = in_process
        self.time_limit = time_limit
        self._connections: dict[str, Connection] = {}
        self._asked: list[Asked] = []
        self._ledger = ledger
        self._records: dict[str, list[divergences.Divergence]] = {}
        self._baseline = baseline
        self._keep_going = keep_going
        self._seen: dict[str, Seen] = {}
        self._looking = False
        self._pending: _Pending | None = None
        self._worst: dict[tuple[str, str, str], Verdict] = {}
        self._met: dict[str, Met] = {}
        self._regions_left_out: set[tuple[str, str]] = set()

    def seed_of(self, rank: int, dtype: str) -> str:
        """What random problems of this rank and dtype are drawn with."""
        changing = f" {secrets.token_hex(8)}" if self._varies else ""
        return f"{self.seed} {rank} {dtype}{changing}"

    def entry(self, name: str) -> Entry:
        """What the registry knows of the oracle called `name`."""
        return self._entries[name]

    def is_wanted(self, name: str) -> bool:
        """Whether an oracle is not there by chance: it is required, or the user has named it."""
        return name in self._chosen or self._entries[name].required

    def connection(self, name: str) -> Connection:
        """The oracle called `name`, which is one of those chosen."""
        if name not in self._connections:
            entry = self._entries[name]
            asked = None
            if not self._in_process and not entry.ours:
                asked = Asked(name, self._regressions)
                self._asked.append(asked)
            self._connections[name] = connect(
                entry,
                in_process=self._in_process,
                time_limit=self.time_limit,
                told=lambda text: setattr(self, "activity", f"{text} {name}" if text else ""),
                may_ask=lambda problem: (
                    entry.oracle.domain.accepts(problem) and not self.known(name, problem)
                ),
                asked=asked,
            )
        return self._connections[name]

    def verify(
        self, oracle: Connection, problem: ConvProblem, *, is_enough: bool = False
    ) -> Verdict | None:
        """Hold `oracle` against the reference on `problem`.

        Raises Disagreement. Returns None, and asks nobody, where the ledger knows the outcome. In
        a search a weak problem does not count, unless it `is_enough`.
        """
        __tracebackhide__ = True
        if self.known(oracle.name, problem):
            self.tally.add_left_out(oracle.name)
            return None
        start = time.perf_counter()
        seen = self._seen_of(oracle.name)
        if seen.exploring_until:
            if time.monotonic() < seen.exploring_until:
                seen.add(problem, judge(oracle, problem))
            return None
        question = self._question(oracle, problem)
        verdict = question.verdict()
        self.count(question.problem, verdict, time.perf_counter() - start)
        if is_weak(problem, question.want):
            self.tally.add_weak(oracle.name)
            if self._looking and not is_enough:
                reject()  # to Hypothesis: it does not count
        return verdict

    def verify_ahead(
        self,
        oracle: Connection,
        problem: ConvProblem,
        *,
        is_enough: bool = False,
        agreed: Callable[[], None] = lambda: None,
    ) -> bool:
        """The same, but the verdict is left to `settle`, and `agreed` called if it is "agrees".

        The oracle computes while the next problem is drawn, and need not wait for it while the one
        before is judged. Raises Late, of the problem before, and then this one counts as not asked.
        Returns whether it was.
        """
        __tracebackhide__ = True
        if self.known(oracle.name, problem):
            self.settle()
            self.tally.add_left_out(oracle.name)
            return False
        start = time.perf_counter()
        question = self._question(oracle, problem)
        question.begin()
        weak = is_weak(problem, question.want)
        seconds = time.perf_counter() - start
        self.settle()
        self._pending = _Pending(question, seconds, weak, agreed)
        if weak and self._looking and not is_enough:
            reject()
        return True

    def settle(self) -> None:
        """Come to the verdict on the problem that was asked ahead, if there is one; raises Late."""
        __tracebackhide__ = True
        pending, self._pending = self._pending, None
        if pending is None:
            return
        start = time.perf_counter()
        verdict = pending.question.verdict()
        seconds = pending.seconds + time.perf_counter() - start
        if verdict.kind != "agrees":
            raise Late(pending.question.problem, verdict, seconds)
        self.count(pending.question.problem, verdict, seconds)
        if pending.is_weak:
            self.tally.add_weak(verdict.oracle)
        pending.agreed()

    def count(self, problem: ConvProblem, verdict: Verdict, seconds: float) -> None:
        """Count a verdict on `problem`; raises Disagreement unless it is "agrees"."""
        __tracebackhide__ = True
        self._seen_of(verdict.oracle).add(problem, verdict)
        self.tally.add_verdict(verdict, seconds)
        self._count_regions(verdict.oracle, problem)
        evidence = verdict.shown_by
        if self._looking and (evidence.before or evidence.seen_at is not None):
            raise FoundElsewhere(verdict.failure())
        verdict.check()

    def _question(self, oracle: Connection, problem: ConvProblem) -> Question:
        """`problem`, with the other oracles for witnesses, should there be something to see."""
        return Question(
            oracle,
            problem,
            lambda: [
                self.connection(name)
                for name in self._entries
                if name != oracle.name and not self.known(name, problem)
            ],
        )

    def verify_class(
        self, oracle: Connection, of: Class, problem: ConvProblem, *, is_last: bool
    ) -> bool:
        """Hold `oracle` against the reference on a problem of a class, and count what it covers.

        The verdict is left to `settle`; raises Late. Returns whether it was asked; if not, and this
        was the last try, the class is left out.
        """
        __tracebackhide__ = True

        def agreed() -> None:
            if of.combination is not None:
                self.met(oracle).meet(problem, of.fill)
            elif of.name not in REGIONS:
                self.tally.add_region(oracle.name, of.name)

        if self.verify_ahead(oracle, problem, is_enough=is_last, agreed=agreed):
            return True
        if is_last and of.combination is not None:
            self.met(oracle).leave_out(of.combination)
        elif is_last:
            self._regions_left_out.add((oracle.name, of.name))
        return False

    def met(self, oracle: Connection) -> Met:
        """What of its covering array `oracle` has met."""
        if oracle.name not in self._met:
            self._met[oracle.name] = Met(coverage_of(oracle.domain))
        return self._met[oracle.name]

    def empty_regions(self, oracle: Connection) -> list[str]:
        """The regions of its domain in which `oracle` was asked nothing, but for the ledger's."""
        for name in region_names(oracle.domain):
            self.tally.add_region(oracle.name, name, 0)
        count = self.tally.count(oracle.name)
        count.all_regions = True
        empty = (name for name, problems in count.regions.items() if not problems)
        return [name for name in empty if (oracle.name, name) not in self._regions_left_out]

    def _count_regions(self, oracle: str, problem: ConvProblem) -> None:
        for name in regions_of(problem):
            self.tally.add_region(oracle, name)

    def smaller(self, failure: Disagreement) -> Disagreement:
        """`failure`, or one of the same manner on a problem that is smaller, of any region."""
        __tracebackhide__ = True
        verdict = failure.verdict
        name, evidence = verdict.oracle, verdict.shown_by
        if evidence.before or evidence.seen_at is not None:
            return failure
        oracle, manner = self.connection(name), manner_of(verdict)
        deadline = time.monotonic() + _REDUCING
        best = verdict

        def shows(trial: list[ConvProblem]) -> bool:
            nonlocal best
            [problem] = trial
            if time.monotonic() > deadline or self.known(name, problem):
                return False
            if not oracle.domain.accepts(problem):
                return False
            found = judge(oracle, problem)
            if manner_of(found) != manner:
                return False
            best = found
            return True

        triage.reduce([verdict.problem], shows)
        if best is verdict:
            return failure
        witnesses = [self.connection(n) for n in self._entries if n != name]
        again = judge(oracle, best.problem, witnesses)
        return again.failure() if manner_of(again) == manner else failure

    def drive(self, verdict: Verdict) -> None:
        """Have Hypothesis look for larger errors than those in `verdict`; remember the largest."""
        for result, ratios in verdict.ratios.items():
            ratio = float(ratios.max())
            target(ratio, label=result)
            key = (verdict.oracle, verdict.problem.dtype.name, result)
            if key not in self._worst or ratio > float(self._worst[key].ratios[result].max()):
                self._worst[key] = verdict

    def probe(self, oracle: Connection, rank: int, dtype: str) -> int:
        """Measure how many bits of the mantissa `oracle` carries, in each result.

        Returns how many problems it was asked. Raises Disagreement, with the problem, if there is
        no answer of the right form, or if the bits are fewer than the dtype has, unless the oracle
        says of itself that it does not sum conventionally.
        """
        __tracebackhide__ = True
        domain, asked = oracle.domain, 0
        precision = promised_bits(domain, dtype)
        least, short = precision, None
        for problem in probes(domain, rank, dtype):
            if self.known(oracle.name, problem) or not domain.accepts(problem):
                continue
            asked += 1
            self.tally.add_check(oracle.name)
            expected = expected_of(problem, domain)
            try:
                grads = oracle.grads(problem)
            except OracleError:
                judge(oracle, problem).check()
                continue
            for name in RESULTS:
                if (got := getattr(grads, name)) is None:
                    continue
                if got.shape != getattr(expected.want, name).shape:
                    judge(oracle, problem).check()
                bits = expected.bits(name, got, precision)
                self.tally.add_bits(oracle.name, dtype, name, bits)
                if bits < least and domain.exact:
                    words = (
                        f"{oracle.name} promises {dtype}, {precision} bits, but its {name} carries "
                        f"{bits} [{describe(problem)}]"
                    )
                    least, short = bits, Verdict(oracle.name, problem, "imprecise", words)
        if short is not None:
            raise short.failure()
        return asked

    def drift(self, oracle: Connection, rank: int, dtype: str) -> list[str]:
        """Measure how exact `oracle` is; returns what is worse than in the baseline, if any.

        Raises Disagreement for what is no longer within bounds.
        """
        __tracebackhide__ = True
        version = self.entry(oracle.name).version or ""
        rows = drift.measure(
            oracle.domain, rank, dtype, version, lambda problem: self.verify(oracle, problem)
        )
        names = {result: drift.key(oracle.name, dtype, rank, result) for result in RESULTS}
        found = [
            f"{name}: in the baseline, but nothing of it was measured now"
            for result, name in names.items()
            if result not in rows and name in (self._baseline or {})
        ]
        for result, new in rows.items():
            name = names[result]
            self.tally.drift[name] = new
            if self._baseline is None:
                continue
            if (old := self._baseline.get(name)) is None:
                found.append(f"{name}: the baseline has no such row; --update-baseline records it")
            elif words := drift.drift(name, old, new):
                about = drift.worst_problem(oracle.domain, rank, dtype, new)
                found.append(f"{words}\n{about}")
        return found

    def replay(self, oracle: Connection, kept: Kept) -> str | None:
        """Hold `oracle` against the reference on a kept counterexample, in a new process.

        Raises Disagreement. Returns None, or why the oracle is not asked.
        """
        __tracebackhide__ = True
        asks = 1 if kept.asks == 1 else 2 * kept.asks
        sequence = [*kept.before, *[kept.problem] * asks]
        for problem in sequence:
            if refusal := oracle.domain.refusal(problem):
                return refusal
            if self.known(oracle.name, problem):
                self.tally.add_left_out(oracle.name)
                return "the ledger knows it"
        oracle.renew()
        for problem in sequence:
            self.verify(oracle, problem)
        return None

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the problems of the Disagreements that leave this block, and say where."""
        try:
            yield
        except BaseException as error:
            for failure in leaves(error):
                if isinstance(failure, Disagreement):
                    failure.add_note(self._keep(failure.verdict))
            raise
        finally:
            self.calm()

    def look(
        self,
        oracle: str,
        run: Callable[[int], None],
        count: float,
        explore: Callable[[int], None] | None = None,
    ) -> None:
        """Have `run` verify `count` random problems of `oracle`; keep what is found.

        `run` is given how many; math.inf says that it knows itself when it has come to an end. To
        keep going is to run it again, for those that are left, without what the failures have in
        common; `explore`, or else `run`, asks random problems to find that out. Raises the failure
        found, an ExceptionGroup of several.
        """
        __tracebackhide__ = True
        seen = self._seen_of(oracle)
        failures: list[Disagreement] = []
        while count > 0:
            seen.begin()
            self._looking = True
            try:
                with self.keeping():
                    run(int(min(count, sys.maxsize)))
                break
            except OutOfTime:
                break
            except (Disagreement, FoundElsewhere, ExceptionGroup) as error:
                found = leaves(error)
                new = [failure for failure in found if isinstance(failure, Disagreement)]
                failures += new
                if len(new) < len(found):
                    raise
            finally:
                self._looking = False
                self._pending = None
            if failures[-1].verdict.kind == NotStarted.kind:
                break
            count -= seen.asked_before_failure
            are_explained = [
                self._explain(oracle, explore or run, failure, finding)
                for failure, finding in zip(new, self.tally.findings[-len(new) :])
            ]
            if not self._keep_going or not all(are_explained) or len(failures) >= _MOST_FINDINGS:
                break
            for failure in new:
                seen.leave_out(failure.verdict)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup(f"{len(failures)} findings", failures)

    def _explain(
        self, oracle: str, run: Callable[[int], None], failure: Disagreement, finding: Finding
    ) -> bool:
        """Add what failures like this one have in common; returns whether they have anything."""
        region = self._explore(oracle, run, failure.verdict)
        failure.add_note(str(region))
        if regions := self._seen_of(oracle).regions(failure.verdict):
            failure.add_note(f"regions: {'; '.join(regions)}")
        finding.in_common, finding.regions = str(region), regions
        return bool(region.conditions)

    def _explore(self, oracle: str, run: Callable[[int], None], verdict: Verdict) -> Proposal:
        """What failures like `verdict` have in common, after asking for some more problems."""
        seen = self._seen_of(oracle)
        seen.exploring_until = time.monotonic() + _EXPLORING
        self.activity = f"exploring what {oracle} gets wrong"
        connection = self.connection(oracle)
        try:
            for problem in neighbours(verdict.problem):
                if connection.domain.accepts(problem):
                    self.verify(connection, problem)
            with contextlib.suppress(OutOfTime):
                run(_EXPLORED)
        finally:
            seen.exploring_until = 0.0
            self.activity = ""
            self.calm()
        return seen.region(verdict)

    def _seen_of(self, oracle: str) -> Seen:
        return self._seen.setdefault(oracle, Seen())

    def calm(self) -> None:
        """The oracles forget the faults that were found, and go on as usual."""
        for connection in self._connections.values():
            connection.calm()

    def _keep(self, verdict: Verdict) -> str:
        """Keep the problem of `verdict`, and count the finding; returns what to tell the user."""
        entry = self.entry(verdict.oracle)
        version, script, alone, path = entry.version or "", None, "", None
        try:
            script = standalone(verdict, entry)
        except Exception as error:  # of the oracle's own `script`; the finding must not be lost
            alone = f"\nno standalone script: {type(error).__name__}: {error}"
        if verdict.kind == NotStarted.kind:
            words = "not kept: no problem is to blame"
        else:
            try:
                path = save(verdict, version, self._regressions, script)
            except OSError as error:
                words = f"could not be kept in {self._regressions}: {error.strerror}"
        if path is not None:
            if script is not None:
                alone = f"\nwith nothing but the framework: python {path.with_suffix('.py')}"
            again = replay_command(verdict.oracle, path)
            words = f"kept; to see it again: {again}{alone}{self._doubt(verdict)}"
        self.tally.findings.append(finding_of(verdict, version, path, script))
        return words

    def _doubt(self, verdict: Verdict) -> str:
        """What to add if a difference is not there in a new process; else ""."""
        evidence = verdict.shown_by
        if verdict.kind == "differs" and not evidence.before and evidence.asks == 1:
            connection = self.connection(verdict.oracle)
            connection.calm()
            connection.renew()
            if judge(connection, verdict.problem).kind == "agrees":
                return "\nin a new process it is right: something asked before has a part in it"
        return ""

    def _recover(self, directory: Path) -> list[Path]:
        """Keep what oracles were asked when earlier runs were killed; returns the files."""
        paths = []
        for oracle, problem in left_behind(directory):
            words = f"{oracle} was asked this when its run was killed"
            verdict = Verdict(oracle, problem, SEEN_ONCE, words)
            with contextlib.suppress(OSError):
                paths.append(save(verdict, "", directory / "seen-once"))
        return paths

    def known(self, oracle: str, problem: ConvProblem) -> bool:
        """Whether `oracle` is known to go wrong on `problem`: by the ledger, or since it did."""
        if oracle not in self._records:
            entry = self.entry(oracle)
            known = divergences.records_of(entry.base, entry.version or "", entry.environment)
            self._records[oracle] = known if self._ledger else []
        if any(record.applies(problem) for record in self._records[oracle]):
            return True
        return oracle in self._seen and self._seen[oracle].left_out(problem)

    def _keep_incident(self, incident: Incident) -> Path | None:
        """Keep what was seen once, with what its process had been asked before."""
        if incident.problem is None:
            return None
        evidence = Evidence(incident.problem, incident.before[-MOST_BEFORE:])
        words = f"{incident.oracle} {incident.words}"
        verdict = Verdict(
            incident.oracle, incident.problem, SEEN_ONCE, words, log=incident.log, evidence=evidence
        )
        with contextlib.suppress(OSError):
            version = self.entry(incident.oracle).version or ""
            return save(verdict, version, self._regressions / "seen-once")
        return None

    def close(self) -> Tally:
        """End the oracles' processes; returns the tally, complete with their incidents."""
        for connection in self._connections.values():
            for incident in connection.incidents:
                self.tally.add_incident(incident, self._keep_incident(incident))
            connection.close()
        self._connections.clear()
        for name, met in self._met.items():
            self.tally.add_coverage(name, met.met, met.valid, len(met.missing))
        self._met.clear()
        for (oracle, _, result), verdict in self._worst.items():
            with contextlib.suppress(OSError, ValueError):
                save_worst(verdict, self.entry(oracle).version or "", result, self._regressions)
        self._worst.clear()
        for asked in self._asked:
            asked.close()
        self._asked.clear()
        return self.tally


def promised_bits(domain: Domain, dtype: str) -> int:
    """How many bits of the mantissa a product must carry: one less of factors that are cut off."""
    if dtype in domain.factors:
        return FACTORS[domain.factors[dtype]].precision - 1
    return FORMATS[dtype].precision


def is_weak(problem: ConvProblem, want: ConvGrads | None = None) -> bool:
    """Whether hardly a fault could show in `problem`, whose right results are `want`, if known.

    Either all products in dX or all in dW are zero, or no result is a sum of more than one.
    """
    terms = (
        math.prod(problem.w.shape[:-1]),  # of y
        math.prod(problem.kernel) * problem.w.shape[-1] // problem.params.groups,  # of dX
        math.prod(problem.dy.shape[:-1]),  # of dW
    )
    if max(terms) <= 1:
        return True
    if want is not None and want.dx.any() and want.dw.any():
        return False
    sums = absolute_sums(problem)  # results can be zero where products are not
    return not sums.dx.any() or not sums.dw.any()


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in `error`, if it is a group of groups, else itself."""
    if isinstance(error, FoundElsewhere):
        return [error.failure]
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]
