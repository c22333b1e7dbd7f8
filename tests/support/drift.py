"""Whether an oracle has become less exact than it was: error / bound on a fixed set of problems.

Each problem is compared with itself. If an oracle is as exact as before, only summing in another
order, its error on a problem is as often larger as it is smaller, so the number of problems on
which it is larger is that of heads among coins (the sign test). What chance brings about less than
once in a million rows is a drift. The ratios are facts of arithmetic, not of speed: the same on
machines of one instruction set and vendor. On others the libraries take other kernels: with AVX-512
FP16 oneDNN's float16 is more exact, and BLAS, which float64 goes through, asks for the vendor too.
A row is compared with one of its own kind of machine only.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oracles.compare import Verdict
from oracles.divergences import cpu_flags, cpu_vendor
from oracles.protocol import Domain, describe
from reference.problem import Array, ConvProblem
from tests.support import fixed
from tests.support.regressions import write_atomically

FORMAT = 1
PROBLEMS = 48
CHANCE = 1e-6  # at which a drift is believed: there are some hundred rows, and a run may be daily
_SETS = ("amx_fp16", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512f", "avx2", "sve", "asimd")


@dataclass(frozen=True)
class Row:
    """Error / bound of one result, over all elements and, as 99th percentile, by problem.

    `version` is the oracle's, `worst` the number of the problem with the largest ratio. What is
    None in `problems` was left out, or had nothing that is rounded.
    """

    version: str
    largest: float
    p99: float
    worst: int
    problems: list[float | None]


Rows = dict[str, Row]


def key(oracle: str, dtype: str, rank: int, result: str) -> str:
    """What a row is found by; its last word is the kind of this machine."""
    return f"{oracle} {dtype} {rank}-D {result} {machine()}"


def machine() -> str:
    """VENDOR:SET, the processor's vendor and the most that kernels are written for of what it has.

    One word, such as "GenuineIntel:avx512_fp16".
    """
    known = next((name for name in _SETS if name in cpu_flags()), "unknown")
    return f"{cpu_vendor()}:{known}"


def check_machine(path: Path, rows: Rows) -> None:
    """Raise ValueError if none of the rows in the baseline `path` is of a machine like this."""
    recorded = {name.rpartition(" ")[2] for name in rows}
    if machine() not in recorded:
        raise ValueError(
            f"{path}: recorded on {' and '.join(sorted(recorded)) or 'no machine'}, but this is "
            f"{machine()}, where libraries compute with other kernels and errors are others: "
            "record this machine's rows beside those with --update-baseline, before the change "
            "that is to be tested"
        )


def measure(
    domain: Domain,
    rank: int,
    dtype: str,
    version: str,
    ask: Callable[[ConvProblem], Verdict | None],
) -> Rows:
    """A row for each result that is claimed; `ask` returns None where nobody is asked."""
    ratios: dict[str, dict[int, Array]] = {}
    for number in range(PROBLEMS):
        verdict = ask(fixed.reals(domain, rank, dtype, number))
        for result, of_elements in verdict.ratios.items() if verdict else ():
            ratios.setdefault(result, {})[number] = of_elements
    rows = {}
    for result, by_number in ratios.items():
        largest = {number: float(of_elements.max()) for number, of_elements in by_number.items()}
        worst = max(largest, key=lambda number: largest[number])
        by_problem = [
            _p99(by_number[number]) if number in by_number else None for number in range(PROBLEMS)
        ]
        everything = _p99(np.concatenate(list(by_number.values())))
        rows[result] = Row(version, _short(largest[worst]), everything, worst, by_problem)
    return rows


def _p99(ratios: Array) -> float:
    return _short(float(np.percentile(ratios, 99)))


def _short(ratio: float) -> float:
    return float(f"{ratio:.4g}")


def drift(name: str, old: Row, new: Row) -> str:
    """A sentence if `new` is less exact than `old` beyond what chance explains, else ""."""
    pairs = [(was, now) for was, now in zip(old.problems, new.problems) if was and now]
    differ = [(was, now) for was, now in pairs if was != now]
    worse = sum(now > was for was, now in differ)
    chance = sum(math.comb(len(differ), heads) for heads in range(worse, len(differ) + 1))
    if chance * 0.5 ** len(differ) >= CHANCE:
        return ""
    bits = statistics.median(math.log2(now / was) for was, now in pairs)
    return (
        f"{name}: less exact than in the baseline by about {bits:.1f} bits: error/bound is larger "
        f"on {worse} of {len(pairs)} problems, where chance would have it on half of them; largest "
        f"{new.largest:.3g}, was {old.largest:.3g}; 99th percentile {new.p99:.3g}, was "
        f"{old.p99:.3g}; version {new.version or '-'}, was {old.version or '-'}"
    )


def worst_problem(domain: Domain, rank: int, dtype: str, row: Row) -> str:
    """What to say of the worst problem of `row`: how to make it, and what it is like."""
    problem = fixed.reals(domain, rank, dtype, row.worst)
    return (
        f"worst problem: tests.support.fixed.reals(domain, {rank}, {dtype!r}, {row.worst}) "
        f"[{describe(problem)}]"
    )


def load(path: Path) -> Rows:
    """The rows in the baseline `path`; raises ValueError that says what is wrong and what to do."""
    remedy = "restore it, or delete it and record a new one with --update-baseline"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; record it with --update-baseline") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}), damaged or cut off: {remedy}") from None
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, but this project reads {FORMAT}")
        return {str(name): _row(row) for name, row in content["rows"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no baseline ({error!r}): {remedy}") from None


def _row(content: Mapping[str, Any]) -> Row:
    problems = [None if value is None else float(value) for value in content["problems"]]
    if len(problems) != PROBLEMS:
        raise ValueError(f"a row of {len(problems)} problems, not {PROBLEMS}")
    figures = (float(content["largest"]), float(content["p99"]))
    return Row(str(content["version"]), *figures, int(content["worst"]), problems)


def save(path: Path, rows: Rows) -> None:
    """Write `rows`, and what `path` has of others, sorted, all or nothing.

    Raises ValueError, and writes nothing, where `path` is there and no baseline.
    """
    merged = {**(load(path) if path.exists() else {}), **rows}
    lines = [f"  {json.dumps(name)}: {json.dumps(asdict(merged[name]))}" for name in sorted(merged)]
    text = ",\n".join(lines)
    write_atomically(path, f'{{\n "format": {FORMAT},\n "rows": {{\n{text}\n }}\n}}\n')
