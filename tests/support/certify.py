"""`python -m oracles certify NAME` runs this: the ladder, rung by rung, and a certificate of it."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from oracles import divergences, outside
from oracles.compare import Disagreement, judge, reference_grads
from oracles.protocol import OracleError
from oracles.registry import Entry, connect, find
from oracles.worker import TIME_LIMIT
from reference.problem import ConvProblem
from tests.support import fixed
from tests.support.classes import ask_one, regions, three_classes
from tests.support.conformance import CHECKS, Broken, concerns, problems_for
from tests.support.independent import INDEPENDENT
from tests.support.ladder import Rung, rungs
from tests.support.mutants import MUTANTS, oracle_name
from tests.support.power import catch, sentence
from tests.support.probing import discover
from tests.support.regressions import replay_command, save, write_atomically
from tests.support.reporting import Tally
from tests.support.verification import Verification, is_weak, leaves

PASS, FAIL, NOT_CLAIMED = "pass", "fail", "not claimed"
MARKS = {PASS: "✅", FAIL: "❌", NOT_CLAIMED: "—"}
CONTRACT = 20  # problems of each check


@dataclass
class Outcome:
    """What came of a rung: a verdict, how many problems it took, and what is wrong on which."""

    rung: str
    verdict: str = NOT_CLAIMED
    problems: int = 0
    weak: int = 0
    left_out: int = 0
    seconds: float = 0.0
    words: str = ""
    kept: str = ""

    def line(self) -> str:
        """One line, and another for what is wrong."""
        about = f"{self.problems:,} problems, {self.seconds:.1f} s" if self.problems else ""
        if self.left_out:
            about += f", {self.left_out:,} left out by the ledger"
        if self.verdict == PASS and self.words:
            about += f"{', ' * bool(about)}{self.words}"
        line = f"{self.verdict:<13}{self.rung:<24}{about}".rstrip()
        if self.verdict == FAIL:
            line += f"\n             {self.words}"
        return line


@dataclass
class Certification:
    """One oracle on the ladder, with `count` problems on each rung."""

    entry: Entry
    output: Path
    count: int
    seed: int
    time_limit: float
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._verification = Verification(
            [self.entry],
            Tally(),
            in_process=False,
            time_limit=self.time_limit,
            regressions=self.output,
            seed=self.seed,
        )
        self._oracle = self._verification.connection(self.entry.name)
        self._domain = self.entry.oracle.domain

    def climb(self, told: Callable[[Outcome], None]) -> None:
        """All rungs, one after the other; `told` of each when it is done."""
        steps: dict[str, Callable[[Outcome], None]] = {
            "contract": self._contract,
            **{rung.name: partial(self._ask, rung) for rung in rungs(self._domain)},
            "all together": self._together,
            "bits of the mantissa": self._bits,
            "speed": self._speed,
            "nothing seen once": self._incidents,
        }
        for name, step in steps.items():
            outcome = Outcome(name)
            start = time.perf_counter()
            try:
                step(outcome)
            except (Disagreement, Broken, BaseExceptionGroup) as error:
                self._fail(outcome, error)
            except OracleError as error:
                outcome.verdict, outcome.words = FAIL, f"{self.entry.name} {error}"
            finally:
                self._verification.calm()
            outcome.seconds = time.perf_counter() - start
            self.outcomes.append(outcome)
            told(outcome)

    def _fail(self, outcome: Outcome, error: BaseException) -> None:
        found = [leaf for leaf in leaves(error) if isinstance(leaf, (Disagreement, Broken))]
        if not found:
            raise error
        failure = found[0]
        outcome.verdict = FAIL
        if isinstance(failure, Broken):
            outcome.words = str(failure)
            return
        verdict = failure.verdict
        outcome.words = verdict.message.splitlines()[0]
        if verdict.kind != "does not start":
            kept = save(verdict, self.entry.version or "", self.output)
            outcome.kept = replay_command(self.entry.name, kept)

    def _draw(
        self, strategy: Any, count: int, label: str, check: Callable[[ConvProblem], None]
    ) -> None:
        """`check` as many problems, the same ones for a seed; what fails is made smaller."""

        @seeded(f"{self.seed} {label}")
        @settings(
            max_examples=count,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            deadline=None,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
            backend=INDEPENDENT,
        )
        @given(problem=strategy)
        def run(problem: ConvProblem) -> None:
            check(problem)

        run()

    def _contract(self, outcome: Outcome) -> None:
        for name, check in CHECKS.items():

            def one(problem: ConvProblem, name: str = name, check: Any = check) -> None:
                if concerns(name, self._domain, problem) and not self._known(problem):
                    outcome.problems += 1
                    check(self._oracle, problem)

            self._draw(problems_for(name, self._domain), CONTRACT, name, one)
        outcome.verdict = PASS

    def _ask(self, rung: Rung, outcome: Outcome) -> None:
        claimed = failed = False
        claims = set(self._domain.results)
        each = math.ceil(self.count / max(1, len(rung.strategies)))

        def one(problem: ConvProblem) -> None:
            nonlocal claimed, failed
            if self._known(problem):
                outcome.left_out += 1
                return
            verdict = judge(self._oracle, problem)
            if not failed:  # what comes then makes a failure smaller
                outcome.problems += 1
                outcome.weak += is_weak(problem)
            wrong = verdict.kind != "agrees" and not claims.isdisjoint(rung.results)
            if rung.kinds:
                claimed, wrong = True, verdict.kind in rung.kinds
            elif verdict.results:
                claimed |= any(verdict.results[name] is not None for name in rung.results)
                wrong = any(verdict.results[name] is False for name in rung.results)
            if wrong:
                failed = True
                raise verdict.failure()

        for number, strategy in enumerate(rung.strategies):
            self._draw(strategy, each, f"{rung.name} {number}", one)
        if claimed:
            outcome.verdict = PASS
        else:
            outcome.problems = 0

    def _together(self, outcome: Outcome) -> None:
        """A problem of every three classes that can meet, and of each region."""
        for of in (*three_classes(self._domain, self.seed), *regions(self._domain, self.seed)):

            def ask(problem: ConvProblem, is_last: bool) -> bool:
                if self._known(problem):
                    outcome.left_out += 1
                    return False
                verdict = judge(self._oracle, problem)
                outcome.problems += 1
                if verdict.kind != "agrees":
                    raise self._verification.smaller(verdict.failure())
                weak = is_weak(problem)
                outcome.weak += weak
                return is_last or not weak

            ask_one(of, ask, self.seed)
        outcome.verdict = PASS

    def _bits(self, outcome: Outcome) -> None:
        """Wide odd integers show how much of the mantissa is carried."""
        for rank, dtype in self._domain.cells():
            outcome.problems += self._verification.probe(self._oracle, rank, dtype)
        found = self._verification.tally.count(self.entry.name).bits
        bits = {dtype: min(of.values()) for dtype, of in found.items() if of}
        outcome.words = ", ".join(f"{dtype} {number}" for dtype, number in bits.items())
        outcome.verdict = PASS if bits else NOT_CLAIMED

    def _speed(self, outcome: Outcome) -> None:
        """How long answers to some layers take, beside the reference's; no more than a figure."""
        problems = list(self._layers())
        own, reference = (
            _milliseconds(ask, problems) for ask in (self._oracle.grads, reference_grads)
        )
        outcome.problems = len(problems)
        outcome.words = f"{own:.2f} ms a problem, the reference {reference:.2f} ms"
        outcome.verdict = PASS

    def _layers(self) -> Iterator[ConvProblem]:
        for rank, dtype in self._domain.cells():
            for number in range(5):
                problem = fixed.reals(self._domain, rank, dtype, number)
                if self._domain.accepts(problem) and not self._known(problem):
                    yield problem

    def _incidents(self, outcome: Outcome) -> None:
        """What went wrong once, in the whole run, and could not be shown again."""
        incidents = self._oracle.incidents
        outcome.verdict = FAIL if incidents else PASS
        if incidents:
            outcome.words = f"{self.entry.name} {incidents[0].words}"

    def _known(self, problem: ConvProblem) -> bool:
        return self._verification.known(self.entry.name, problem)

    def power(self) -> dict[str, Any]:
        """Of the planted faults that an oracle like this could have, those this run would see."""
        domain, cells = self._domain, set(self._domain.cells())
        planted = [
            name
            for name, mutant in MUTANTS.items()
            if cells & set(mutant.domain.cells())
            and (not mutant.gradients or set(mutant.gradients) & set(domain.results))
            and (domain.special_values or not mutant.special)
        ]
        alive = {
            name: connect(
                find(oracle_name(name)), in_process=not MUTANTS[name].needs_process, time_limit=1.0
            )
            for name in planted
        }
        found = catch(alive, domain, self.seed, 1)
        missed = sorted(set(planted) - set(found))
        words = sentence(found, len(planted))
        return {"caught": len(found), "planted": len(planted), "missed": missed, "words": words}

    def close(self) -> None:
        """End the oracle's processes."""
        self._verification.close()


def _milliseconds(ask: Callable[[ConvProblem], Any], problems: Sequence[ConvProblem]) -> float:
    """The least of three times, a problem."""
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        for problem in problems:
            ask(problem)
        best = min(best, time.perf_counter() - start)
    return 1000 * best / max(1, len(problems))


def certificate(run: Certification, power: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    """All that there is to certify, for JSON."""
    entry = run.entry
    outcomes = [asdict(outcome) for outcome in run.outcomes]
    return {
        "format": 1,
        "oracle": entry.name,
        "distribution": outside.distributions(entry.oracle),
        "version": entry.version,
        "sha256": _fingerprint(entry.base),
        "domain": entry.oracle.domain.to_json(),
        "verdict": FAIL if any(o.verdict == FAIL for o in run.outcomes) else PASS,
        "rungs": outcomes,
        "problems": sum(outcome.problems for outcome in run.outcomes),
        "weak": sum(outcome.weak for outcome in run.outcomes),
        "power": power,
        "seed": run.seed,
        "problems a rung": run.count,
        "seconds": round(seconds, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verifier": _installed("conv-gradient-verifier"),
        "python": platform.python_version(),
        "interpreter": "" if entry.python == sys.executable else entry.python,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": {
            "vendor": divergences.cpu_vendor(),
            "avx512": sorted(f for f in divergences.cpu_flags() if f.startswith("avx512")),
        },
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "a checkout"


def _fingerprint(base: str) -> str | None:
    """Of an oracle in a file, what only this file has."""
    path = Path(base.rpartition(".py")[0] + ".py")
    if not outside.is_path(base) or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def badges(content: dict[str, Any]) -> str:
    """The certificate as a Markdown table."""
    about = f"{content['problems']:,} problems, seed {content['seed']}, {content['date'][:10]}"
    if content["power"]:
        about += f"; {content['power']['words']}"
    lines = [
        f"# {content['oracle']} {content['version'] or ''}".rstrip(),
        "",
        f"{MARKS[content['verdict']]} {content['verdict']}: {about}.",
        "",
        "| rung | verdict | problems | |",
        "|---|---|---|---|",
    ]
    for rung in content["rungs"]:
        words = rung["words"].replace("|", "\\|")
        mark = f"{MARKS[rung['verdict']]} {rung['verdict']}"
        lines.append(f"| {rung['rung']} | {mark} | {rung['problems']:,} | {words} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Certify oracles; returns 0 if no rung fails, 1 if one does, 2 if there is no such oracle."""
    options = _options(arguments)
    entries = []
    for name in options.names:
        try:
            entries.append(find(name, undeclared=options.discover))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    missing = [entry.missing for entry in entries if not entry.installed]
    if missing:
        print(*(f"error: {words}" for words in missing), sep="\n", file=sys.stderr)
        return 2
    if options.discover:
        print(discover(entries, options.time_limit))
        return 0
    return max(_certify(entry, options) for entry in entries)


def _certify(entry: Entry, options: argparse.Namespace) -> int:
    name = re.sub(r"[^\w.]+", "-", entry.name).strip("-.")
    output = Path(options.output or f"certificate-{name}")
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    run = Certification(entry, output, options.problems, options.seed, options.time_limit)
    print(f"{entry.name} {entry.version or ''}".rstrip(), flush=True)
    try:
        run.climb(lambda outcome: print(outcome.line(), flush=True))
    finally:
        run.close()
    power = run.power() if options.power else None
    content = certificate(run, power, time.perf_counter() - start)
    write_atomically(output / "certificate.json", json.dumps(content, indent=1) + "\n")
    write_atomically(output / "certificate.md", badges(content))
    print(f"\n{power['words']}" if power else "")
    for kept in dict.fromkeys(outcome.kept for outcome in run.outcomes if outcome.kept):
        print(f"to see it again: {kept}")
    passed = content["verdict"] == PASS
    print(
        f"{'certified' if passed else 'NOT certified'} in {content['seconds']:.0f} s, "
        f"{content['problems']:,} problems: {output / 'certificate.json'}, certificate.md"
    )
    return 0 if passed else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m oracles certify", description=__doc__)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="an oracle, as for pytest --oracle"
    )
    parser.add_argument(
        "--discover",
        action="store_true",
        help="instead find out what it takes: print its domain, and what becomes of all else",
    )
    parser.add_argument("--output", metavar="DIR", help="where to (default: certificate-NAME)")
    parser.add_argument("--problems", type=int, default=100, metavar="N", help="a rung (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what is drawn with (0)")
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, metavar="SECONDS", help="a problem (30)"
    )
    parser.add_argument(
        "--no-power",
        dest="power",
        action="store_false",
        help="do not find out how many planted faults this would have caught, which takes longer",
    )
    options = parser.parse_args(arguments)
    if options.problems < 1:
        parser.error(f"--problems {options.problems}: must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
