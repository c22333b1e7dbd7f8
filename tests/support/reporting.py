"""What was verified, counted per oracle, and the agreement table at the end of a run."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oracles.compare import Disagreement, Verdict, reproduction
from oracles.protocol import describe
from oracles.registry import Entry
from oracles.worker import Incident
from reference.problem import Array
from reference.rounding import FORMATS, RESULTS
from tests.support.drift import Row, Rows
from tests.support.regressions import problem_to_json, replay_command

COLUMNS = (
    "oracle",
    "version",
    "problems",
    "dX",
    "dW",
    "db",
    "y",
    "left out by ledger",
    "weak",
    "error/bound",
    "seconds",
)
_MOST_ELEMENTS = 4096
RANDOM = "random problems"
CLASSES = "classes of problems"
SPREAD = 20  # parts that error / bound, from 0 to 1, is counted in
_NUMERIC = ("problems", "left out by ledger", "weak", "error/bound", "seconds")


@dataclass
class Count:
    """One oracle's row: problems answered and not, agreement per result, seconds spent asking.

    `exact` of those that `agreed` had to be equal. `weak` are the problems in which hardly a fault
    could have shown, `ratio` is the largest error / bound, `bits` what is carried of the mantissa,
    by dtype and result, `regions` how many problems were in each, `all_regions` whether these are
    all that the domain has. `spread` counts, by result, the problems whose largest error / bound
    lies in each 20th from 0 to 1. `met` of `valid` three levels of the covering array have met, and
    `missing` have not, though the ledger says nothing of them. `support` says of each kind of
    problem what became of those that were tried. `checks` are the problems of probes and of the
    contract, where nobody is held against the reference. `cut` says of random problems and of
    classes, those that there was no time for, and of how many.
    """

    problems: int = 0
    unanswered: int = 0
    left_out: int = 0
    weak: int = 0
    seconds: float = 0.0
    ratio: float = 0.0
    agreed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    exact: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    bits: dict[str, dict[str, int]] = field(default_factory=dict)
    spread: dict[str, list[int]] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    all_regions: bool = False
    met: int = 0
    valid: int = 0
    missing: int = 0
    support: dict[str, str] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    checks: int = 0

    @property
    def has_asked(self) -> bool:
        """Whether anything was asked, though it be a probe or what the contract promises."""
        return bool(self.problems or self.checks)

    def cell(self, result: str, *, claimed: bool = True) -> str:
        """What the table says of one of dx, dw, db and y, which the oracle has `claimed` or not."""
        if self.failed[result]:
            return "failed"
        if self.agreed[result]:
            return "exact" if self.exact[result] else "bounded"
        return "no answer" if self.unanswered and claimed else "-"


@dataclass
class Finding:
    """What a report says of one disagreement.

    `problem` is in JSON, as it is kept; `errors` holds of each result that is wrong its shape and,
    of each element, how far off it is, None where that is no number.
    """

    oracle: str
    version: str
    kind: str
    message: str
    log: str
    about: str
    problem: dict[str, Any]
    asks: int
    kept: str
    script: str
    errors: dict[str, dict[str, Any]]
    in_common: str = ""
    regions: list[str] = field(default_factory=list)


def finding_of(verdict: Verdict, version: str, kept: Path | None, script: str | None) -> Finding:
    """What is known of `verdict`, whose problem is kept in the file `kept`."""
    evidence = verdict.shown_by
    return Finding(
        verdict.oracle,
        version,
        verdict.kind,
        verdict.message,
        verdict.log,
        describe(evidence.problem),
        problem_to_json(evidence.problem),
        evidence.asks,
        str(kept or ""),
        script or reproduction(verdict),
        {name: _errors_to_json(array) for name, array in verdict.errors.items()},
    )


def _errors_to_json(errors: Array) -> dict[str, Any]:
    """Shape and elements; of those beyond the first few thousand only how many there are."""
    elements = [float(error) for error in errors.ravel()[:_MOST_ELEMENTS]]
    shown = [error if math.isfinite(error) else None for error in elements]
    return {"shape": errors.shape, "elements": shown}


class Tally:
    """Counts per oracle, findings and incidents; can be added up over processes."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}
        self.findings: list[Finding] = []
        self.incidents: list[str] = []
        self.drift: Rows = {}
        self.power = ""  # the sentence on planted faults

    @property
    def problems(self) -> int:
        """How many problems have been asked so far, of all oracles."""
        return sum(count.problems for count in self.counts.values())

    @property
    def has_asked(self) -> bool:
        """Whether any oracle was asked anything."""
        return any(count.has_asked for count in self.counts.values())

    def count(self, oracle: str) -> Count:
        """The row of `oracle`."""
        return self.counts.setdefault(oracle, Count())

    def add_verdict(self, verdict: Verdict, seconds: float) -> None:
        """Count one problem, which took `seconds` to ask and judge."""
        count = self.count(verdict.oracle)
        count.problems += 1
        count.seconds += seconds
        count.unanswered += not verdict.results
        for result, agrees in verdict.results.items():
            if agrees is not None:
                (count.agreed if agrees else count.failed)[result] += 1
                count.exact[result] += agrees and result not in verdict.ratios
        for result, ratios in verdict.ratios.items():
            ratio = float(ratios.max())
            count.ratio = max(count.ratio, ratio)
            parts = count.spread.setdefault(result, [0] * SPREAD)
            parts[min(int(ratio * SPREAD), SPREAD - 1)] += 1

    def add_weak(self, oracle: str) -> None:
        """Say of one problem that has been counted that it is weak."""
        self.count(oracle).weak += 1

    def add_bits(self, oracle: str, dtype: str, result: str, bits: int) -> None:
        """Count what a probe found: the least counts."""
        row = self.count(oracle).bits.setdefault(dtype, {})
        row[result] = min(bits, row.get(result, bits))

    def add_region(self, oracle: str, region: str, problems: int = 1) -> None:
        """Count a problem in a region."""
        regions = self.count(oracle).regions
        regions[region] = regions.get(region, 0) + problems

    def add_coverage(self, oracle: str, met: int, valid: int, missing: int) -> None:
        """Count what of a covering array has met, in the one process that asks for all of it."""
        count = self.count(oracle)
        count.met, count.valid, count.missing = met, valid, missing

    def add_cut(self, oracle: str, kind: str, cut: int, wanted: int) -> None:
        """Count those of a kind that there was no time for, of so many."""
        row = self.count(oracle).cut.setdefault(kind, [0, 0])
        row[:] = row[0] + cut, row[1] + wanted

    def add_check(self, oracle: str) -> None:
        """Count a problem of a probe or of the contract."""
        self.count(oracle).checks += 1

    def add_left_out(self, oracle: str) -> None:
        """Count one problem that the ledger keeps from `oracle`."""
        self.count(oracle).left_out += 1

    def add_incident(self, incident: Incident, kept: Path | None = None) -> None:
        """Keep what was seen once, with all that is known of it."""
        problem = incident.problem
        at = f" [{describe(problem)}]" if problem is not None else ""
        log = f"\nits process wrote:\n{incident.log}" if incident.log else ""
        script = f"\n{problem!r}" if problem is not None else ""
        again = ""
        if kept is not None:
            count = len(incident.before)
            again = (
                f"\nkept, with what the same process was asked before ({count} problems); "
                f"to try again: {replay_command(incident.oracle, kept)}"
            )
        self.incidents.append(f"{incident.oracle} {incident.words}{at}{script}{log}{again}")

    def to_json(self) -> str:
        """Everything, for another process."""
        counts = {oracle: asdict(count) for oracle, count in self.counts.items()}
        rows = {name: asdict(row) for name, row in self.drift.items()}
        return json.dumps(
            {
                "counts": counts,
                "findings": [asdict(finding) for finding in self.findings],
                "incidents": self.incidents,
                "drift": rows,
                "power": self.power,
            }
        )

    def add_json(self, text: str) -> None:
        """Add what another process counted."""
        data = json.loads(text)
        self.incidents += data["incidents"]
        self.findings += [Finding(**finding) for finding in data["findings"]]
        self.power = self.power or data["power"]
        self.drift.update({name: Row(**row) for name, row in data["drift"].items()})
        for oracle, row in data["counts"].items():
            count = self.count(oracle)
            count.problems += row["problems"]
            count.unanswered += row["unanswered"]
            count.left_out += row["left_out"]
            count.weak += row["weak"]
            count.checks += row["checks"]
            count.seconds += row["seconds"]
            count.ratio = max(count.ratio, row["ratio"])
            for result in RESULTS:
                count.agreed[result] += row["agreed"][result]
                count.exact[result] += row["exact"][result]
                count.failed[result] += row["failed"][result]
            for result, parts in row["spread"].items():
                sums = zip(parts, count.spread.get(result, [0] * SPREAD))
                count.spread[result] = [one + other for one, other in sums]
            for region, problems in row["regions"].items():
                self.add_region(oracle, region, problems)
            count.all_regions |= row["all_regions"]
            if row["valid"]:
                self.add_coverage(oracle, row["met"], row["valid"], row["missing"])
            count.support.update(row["support"])
            for kind, (cut, wanted) in row["cut"].items():
                self.add_cut(oracle, kind, cut, wanted)
            for dtype, of_results in row["bits"].items():
                for result, bits in of_results.items():
                    self.add_bits(oracle, dtype, result, bits)


def table_rows(entries: Sequence[Entry], tally: Tally) -> list[tuple[str, ...]]:
    """One row of text per oracle, in the order of `COLUMNS`."""
    rows = []
    for entry in entries:
        if not entry.installed:
            rows.append((entry.name, "not installed", *["-"] * (len(COLUMNS) - 2)))
            continue
        count = tally.counts.get(entry.name, Count())
        claims = entry.oracle.domain.results
        cells = (count.cell(result, claimed=result in claims) for result in RESULTS)
        ratio = f"{count.ratio:.3f}" if count.ratio else "-"
        numbers = (f"{count.left_out:,}", f"{count.weak:,}", ratio, f"{count.seconds:.1f}")
        rows.append((entry.name, entry.version or "-", f"{count.problems:,}", *cells, *numbers))
    return rows


def write_summary(
    reporter: pytest.TerminalReporter, entries: Sequence[Entry], tally: Tally
) -> None:
    """The agreement table, if anything was asked, and the incidents."""
    from tests.support.side_by_side import change_lines  # which imports this module

    if tally.counts:
        reporter.section("agreement with the NumPy reference")
        rows = table_rows(entries, tally)
        narrow = reporter._tw.fullwidth < 78  # then rich would cut the words short
        draw = rich_table if reporter.isatty and not narrow else plain_table
        reporter.write_line(draw(rows, reporter._tw.fullwidth))
        for entry in entries:
            if not entry.installed:
                reporter.write_line(entry.missing)
    if precision := precision_lines(entries, tally):
        reporter.section("bits of the mantissa carried")
        for line in precision:
            reporter.write_line(line)
    if changes := change_lines(entries, tally):
        reporter.section("between interpreters")
        for line in changes:
            reporter.write_line(line)
    if covered := coverage_lines(entries, tally):
        reporter.section("problem space")
        for line in covered:
            reporter.write_line(line)
        if reporter.config.getoption("--hypothesis-show-statistics"):
            reporter.write_line("")
            for line in region_lines(entries, tally):
                reporter.write_line(line)
    if tally.incidents:
        reporter.section("seen once: no problem could be found that shows it again", red=True)
        for incident in tally.incidents:
            reporter.write_line(f"{incident}\n")
        reporter.write_line("No test could be blamed for this, but the run is red: exit code 1.")
    if tally.power:
        reporter.section("power")
        reporter.write_line(tally.power)


def coverage_lines(entries: Sequence[Entry], tally: Tally) -> list[str]:
    """One line per oracle: how much of the covering array, and how many problems per region."""
    lines = []
    for entry in entries:
        count = tally.counts.get(entry.name, Count())
        parts = []
        if count.valid:
            share = 100 * count.met / count.valid
            part = f"{count.met:,} of {count.valid:,} three classes met ({_per_cent(share)})"
            if known := count.valid - count.met - count.missing:
                part += f", {known:,} are known to the ledger"
            parts.append(part)
        if count.regions:
            fewest = min(count.regions, key=lambda name: count.regions[name])
            reached = sum(map(bool, count.regions.values()))
            part = f"{reached} of {len(count.regions)} regions, "
            if not count.all_regions:
                part = f"{reached} regions, not all were asked for, "
            parts.append(f'{part}the fewest problems in "{fewest}" ({count.regions[fewest]:,})')
        if parts:
            lines.append(f"{entry.name}: {'; '.join(parts)}")
    return lines


def cut_lines(entries: Sequence[Entry], tally: Tally) -> list[str]:
    """One line per oracle that there was not time enough for: what it was not asked."""
    lines = []
    for entry in entries:
        cut = tally.counts.get(entry.name, Count()).cut
        parts = [f"{some:,} of {of:,} {kind}" for kind, (some, of) in cut.items() if some]
        if parts:
            lines.append(f"{' and '.join(parts)} of {entry.name}")
    return lines


def region_lines(entries: Sequence[Entry], tally: Tally) -> list[str]:
    """How many problems each oracle was asked in each region, as a table; "-": it has none."""
    counts = {e.name: tally.counts[e.name].regions for e in entries if e.name in tally.counts}
    names = dict.fromkeys(name for of in counts.values() for name in of)
    rows = [("problems in region", *counts)]
    rows += [
        (name, *(f"{of[name]:,}" if name in of else "-" for of in counts.values()))
        for name in names
    ]
    return _aligned(rows)


def _per_cent(share: float) -> str:
    """Rounded down: 100 % is all."""
    return f"{math.floor(share * 10) / 10:g} %"


def precision_lines(entries: Sequence[Entry], tally: Tally) -> list[str]:
    """One line per oracle that was probed: for each dtype the bits that its results carry."""
    lines = []
    for entry in entries:
        if entry.name in tally.counts and (bits := tally.counts[entry.name].bits):
            cells = (f"{dtype} {_bits_cell(bits[dtype])}" for dtype in FORMATS if dtype in bits)
            lines.append(f"{entry.name}: {', '.join(cells)}")
    return lines


def _bits_cell(bits: dict[str, int]) -> str:
    """One number where all results carry as many bits."""
    if len(set(bits.values())) == 1:
        return str(next(iter(bits.values())))
    return "(" + ", ".join(f"{name} {number}" for name, number in bits.items()) + ")"


def plain_table(rows: Sequence[tuple[str, ...]], width: int) -> str:
    """The table in aligned columns of plain text; `width` is not kept to."""
    del width
    return "\n".join(_aligned([COLUMNS, *rows]))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, widths)).rstrip() for row in rows]


def rich_table(rows: Sequence[tuple[str, ...]], width: int) -> str:
    """The table for a terminal `width` columns wide, with colours."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    styles = {"exact": "green", "bounded": "green", "failed": "bold red", "no answer": "bold red"}
    gap = 1 if width >= 100 else 0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), show_edge=False)
    for column in COLUMNS:
        numeric = column in _NUMERIC
        wraps = column == "left out by ledger"
        table.add_column(
            column, justify="right" if numeric else "left", no_wrap=not wraps, min_width=6
        )
    for row in rows:
        table.add_row(*(f"[{styles[c]}]{c}[/]" if c in styles else c for c in row))
    text = io.StringIO()
    Console(file=text, force_terminal=True, width=width).print(table)
    return text.getvalue().rstrip()


def reason_of(error: BaseException | None, marked: str) -> str:
    """Why a test is red: what the oracle did, or else what the test is marked with."""
    kinds = {failure.verdict.kind for failure in _disagreements(error)}
    if kinds & {"crashes", "hangs", "does not start"}:
        return "crash"
    if "differs" in kinds:
        return "disagreement"
    if "imprecise" in kinds:
        return "precision"
    return "no answer" if kinds else marked


def _disagreements(error: BaseException | None) -> list[Disagreement]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _disagreements(part)]
    return [error] if isinstance(error, Disagreement) else []
