"""`--report DIR`: what a run found, as a page, as JSON and as a few lines for a pull request.

It is written whatever happens: every few seconds while the run goes on, and at its end. Each file
is replaced as a whole: a killed run leaves its last state, which says that it has not ended.
The folders of findings carry the number of their run: two runs into one directory do not mix.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.registry import Entry
from reference.problem import Array
from reference.rounding import FORMATS, RESULTS
from tests.support import drift
from tests.support.regressions import problem_from_json, write_atomically
from tests.support.reporting import (
    CLASSES,
    RANDOM,
    SPREAD,
    Count,
    Finding,
    Tally,
    cut_lines,
)

FORMAT = 1
OUTCOMES = ("passed", "failed", "error", "skipped", "cut")
TEMPLATES = Path(__file__).parent / "templates"
_PERIOD = 10.0  # seconds between two states of a run that goes on
_MOST_ROWS = 48  # of a heat map; of more the largest error in several stands for them

# Why a run is red, worst first.
REASONS: Mapping[str, str] = {
    "disagreement": "an oracle's answer is not the reference's",
    "crash": "an oracle crashes, hangs or does not start",
    "no answer": "an oracle raises an exception, or answers with something that is no gradient",
    "seen once": "a fault was seen that no problem could be found for",
    "precision": "an oracle carries fewer bits than its dtype has",
    "drift": "an oracle has become less exact than the baseline says",
    "fixed divergence": "a defect in the ledger is gone, or its record is not what it should be",
    "empty region": "an oracle was asked nothing in a part of its domain",
    "lost power": "a planted fault would no longer be caught",
    "contract": "an oracle breaks the contract of oracles",
    "test": "another test fails",
    "cut": "the budget left no time for a test of an oracle, or for the planted faults",
    "too few": "an oracle was asked fewer problems that can fail than --minimum-problems says",
    "nothing asked": "no oracle was asked anything, or not one that --require-oracles requires",
    "interrupted": "the run was interrupted",
}


_RANKS = list(REASONS)


@dataclass
class Outcome:
    """One test: why it is red, and its last words.

    `outcome` is "passed", "failed", "error", "skipped", or "cut" where a budget left no time.
    """

    outcome: str
    seconds: float
    reason: str
    words: str


class Report:
    """A pytest plugin that keeps account of a run, and writes it into `directory`, if there is one.

    `wanted` are the oracles that must be asked. `problem` says why it could not be written.
    """

    def __init__(
        self,
        config: pytest.Config,
        directory: Path | None,
        entries: Sequence[Entry],
        tally: Tally,
        wanted: Sequence[Entry] = (),
    ) -> None:
        self._wanted = wanted
        self.problem = ""
        self._config = config
        self._directory = directory
        self._entries = entries
        self._tally = tally
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._began = time.time()
        self._written = 0.0
        self._outcomes: dict[str, Outcome] = {}
        self._selected = 0
        self._tallies: dict[str, str] = {}  # of the processes of pytest-xdist, while they work
        self._filed: set[str] = set()  # folders of findings that are written

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say that a run has begun."""
        self._selected = max(self._selected, len(session.items))
        self.write("running")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The processes of pytest-xdist collect, this one does not."""
        self._selected = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test came to, and now and then write it."""
        if worker := getattr(report, "worker_id", ""):
            self._tallies[worker] = getattr(report, "tally", self._tallies.get(worker, ""))
        if report.passed and report.when == "setup":
            return  # it has not run yet
        known = self._outcomes.setdefault(report.nodeid, Outcome("passed", 0.0, "", ""))
        known.seconds += report.duration
        if report.failed:
            known.outcome = "failed" if report.when == "call" else "error"
            reason = getattr(report, "reason", "")
            if reason or not known.reason:  # else it is known from a subtest
                known.reason = min((reason or "test", known.reason or "test"), key=_RANKS.index)
                known.words = _last_words(report)
        elif report.skipped and known.outcome == "passed":
            known.outcome = "skipped"
            known.words = (
                str(report.longrepr[2]).removeprefix("Skipped: ")
                if isinstance(report.longrepr, tuple)
                else ""
            )
            if cut := getattr(report, "cut", ""):
                known.outcome, known.reason = "cut", "cut" if cut == "red" else ""
        if report.failed or time.monotonic() - self._written > _PERIOD:
            self.write("running")

    def write(self, state: str) -> None:
        """Write the report of a run that is "running", "finished" or "interrupted"."""
        self._written = time.monotonic()
        directory = self._directory
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.problem = f"{directory}: {error.strerror}"
            return
        before = _read(directory / "report.json")
        content = self.content(state)
        problems = []
        for name in ("summary.md", "report.json", "report.html"):  # the smallest first
            try:
                write_atomically(directory / name, render(name, content))
            except OSError as error:
                problems.append(f"{directory / name}: {error.strerror}")
        self.problem = "; ".join(problems)
        if problems:
            return
        old = str(before.get("run", ""))
        if state != "running" and old != self._run and before.get("state") != "running":
            shutil.rmtree(directory / f"findings-{old}", ignore_errors=True)

    @property
    def cut_lines(self) -> list[str]:
        """What there was no time for, line by line."""
        lines: list[str] = self._cut(self._tally)["lines"]
        return lines

    def verdict(self, state: str) -> dict[str, Any]:
        """Colour, sentence and the reasons for red."""
        tally = self._merged(state)
        reasons = self._reasons(tally, state)
        return {
            "colour": "red" if reasons else "green" if state == "finished" else "none",
            "sentence": self._sentence(tally, reasons, state),
            "reasons": reasons,
        }

    def content(self, state: str) -> dict[str, Any]:
        """The whole report, as it is in report.json (templates/report.schema.json)."""
        tally = self._merged(state)
        outcomes = Counter(test.outcome for test in self._outcomes.values())
        return {
            "format": FORMAT,
            "run": self._run,
            "state": state,
            "began": f"{datetime.fromtimestamp(self._began, UTC):%Y-%m-%d %H:%M:%S} UTC",
            "seconds": round(time.time() - self._began, 1),
            "verdict": self.verdict(state),
            "tests": {
                "selected": self._selected,
                **{name: outcomes[name] for name in OUTCOMES},
                "not run": max(0, self._selected - len(self._outcomes)),
                "red": [
                    {"test": name, **asdict(test)}
                    for name, test in self._outcomes.items()
                    if test.outcome in ("failed", "error")
                ],
                "left out": dict(
                    Counter(t.words for t in self._outcomes.values() if t.outcome == "skipped")
                ),
            },
            "oracles": [self._oracle(entry, tally) for entry in self._entries],
            "findings": list(
                {
                    folder: {**asdict(finding), "folder": folder}
                    for finding in tally.findings
                    if (folder := self._file(finding))
                }.values()
            ),
            "seen once": tally.incidents,
            "power": tally.power,
            "cut": self._cut(tally),
            "environment": self._environment(),
        }

    def _merged(self, state: str) -> Tally:
        """What all processes have counted: their last words are in the tally at the end only."""
        merged = Tally()
        merged.add_json(self._tally.to_json())
        if state == "running":
            for text in filter(None, self._tallies.values()):
                merged.add_json(text)
        return merged

    def _reasons(self, tally: Tally, state: str) -> list[dict[str, Any]]:
        counts = Counter(test.reason for test in self._outcomes.values() if test.reason)
        counts["seen once"] += len(tally.incidents)
        counts["interrupted"] += state == "interrupted"
        about = {}
        if state == "finished" and not self._config.getoption("collectonly"):
            is_idle = self._directory is not None and not tally.has_asked
            about["nothing asked"] = self._unasked(tally) or [""] * is_idle
            about["too few"] = self._too_few(tally)
            counts.update({reason: len(names) for reason, names in about.items()})
        return [
            {
                "reason": reason,
                "count": counts[reason],
                "words": ": ".join(filter(None, (words, ", ".join(about.get(reason, ()))))),
            }
            for reason, words in REASONS.items()
            if counts[reason]
        ]

    def _unasked(self, tally: Tally) -> list[str]:
        """The oracles that --require-oracles requires and that were asked nothing."""
        if not self._config.getoption("--require-oracles"):
            return []
        counts = tally.counts
        return [e.name for e in self._wanted if not counts.get(e.name, Count()).has_asked]

    def _too_few(self, tally: Tally) -> list[str]:
        """The oracles that were asked fewer problems than the user wants, and how many."""
        least = self._config.getoption("--minimum-problems") or 0
        found = []
        for entry in self._wanted:
            count = tally.counts.get(entry.name, Count())
            if entry.installed and (strong := count.problems - count.weak) < least:
                found.append(f"{entry.name} {strong:,} of {least:,}")
        return found

    def _cut(self, tally: Tally) -> dict[str, Any]:
        """What there was no time for: tests, whether that is red, and lines of text."""
        tests = {
            name: bool(test.reason)
            for name, test in self._outcomes.items()
            if test.outcome == "cut"
        }
        lines = cut_lines(self._entries, tally)
        if tests:
            files = Counter(name.rpartition("::")[0].rpartition("/")[2] for name in tests)
            names = (f"{file} ({count})" for file, count in files.items())
            lines.append(f"{len(tests):,} tests: {', '.join(names)}")
        return {"budget": self._config.getoption("--budget") or "", "tests": tests, "lines": lines}

    def _sentence(self, tally: Tally, reasons: list[dict[str, Any]], state: str) -> str:
        counts = tally.counts
        asked = [e.name for e in self._entries if counts.get(e.name, Count()).problems]
        done = f" {tally.problems:,} problems were put to {_and(asked)}." if asked else ""
        cut = self._cut_words(tally)
        if reasons:
            names = ", ".join(f"{r['reason']} ({r['count']})" for r in reasons)
            return f"Red: {names}.{done}{cut}"
        if state == "running":
            return f"This run has not ended, or was killed. Nothing is red so far.{done}"
        agree = "Every answer agrees with the reference." if asked else "All tests pass."
        return f"Green:{done} {agree}{cut}"

    def _cut_words(self, tally: Tally) -> str:
        """A sentence on what there was no time for; "" if there was for everything."""
        parts = []
        for kind in (RANDOM, CLASSES):
            rows = [count.cut.get(kind, (0, 0)) for count in tally.counts.values()]
            if cut := sum(row[0] for row in rows):
                parts.append(f"{cut:,} of {sum(row[1] for row in rows):,} {kind}")
        tests = sum(test.outcome == "cut" for test in self._outcomes.values())
        parts += [f"{tests:,} tests"] * (tests > 0)
        budget = self._config.getoption("--budget")
        who = f"The budget of {budget} left no time" if budget else "There was no time"
        return f" {who} for {_and(parts)}." if parts else ""

    def _oracle(self, entry: Entry, tally: Tally) -> dict[str, Any]:
        count = tally.counts.get(entry.name, Count())
        return {
            "name": entry.name,
            "version": entry.version or "",
            "installed": entry.installed,
            "missing": "" if entry.installed else entry.missing,
            "problems": count.problems,
            "weak": count.weak,
            "left out by ledger": count.left_out,
            "seconds": round(count.seconds, 1),
            "results": {result: count.cell(result) for result in RESULTS},
            "error/bound": {"largest": count.ratio, "spread": count.spread},
            "bits": {name: count.bits[name] for name in FORMATS if name in count.bits},
            "regions": count.regions,
            "all regions": count.all_regions,
            "cut": {kind: {"cut": cut, "of": of} for kind, (cut, of) in count.cut.items()},
            "three classes": {"met": count.met, "valid": count.valid, "missing": count.missing},
            "support": count.support,
            "domain": _boxes(entry),
        }

    def _environment(self) -> dict[str, Any]:
        option = self._config.getoption
        arguments = self._config.invocation_params.args
        return {
            "machine": f"{platform.system()} {platform.machine()}, {drift.machine()}",
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "profile": option("--hypothesis-profile") or "dev",
            "seed": str(option("--hypothesis-seed") or 0),
            "command": shlex.join(["pytest", *map(str, arguments)]),
        }

    def _file(self, finding: Finding) -> str:
        """Write the folder of a finding; returns where it is, or why there is none."""
        assert self._directory is not None
        key = hashlib.sha256(json.dumps(asdict(finding), default=str).encode()).hexdigest()
        name = re.sub(r"[^\w]+", "-", f"{finding.oracle}-{finding.kind}-{key[:12]}")
        folder = self._directory / f"findings-{self._run}" / name
        if name in self._filed:
            return str(folder.relative_to(self._directory))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = {"about": finding.about, "problem": finding.problem}
            write_atomically(folder / "problem.json", json.dumps(content, indent=1) + "\n")
            write_atomically(folder / "show.py", finding.script)
            _save_arrays(folder / "arrays.npz", finding)
            for result, errors in finding.errors.items():
                map_ = heat_map(result, errors)
                picture = render("heat.svg", {"map": map_, "about": finding.message})
                write_atomically(folder / f"{result}.svg", picture)
        except OSError as error:
            return f"not written: {error.strerror}"
        self._filed.add(name)
        return str(folder.relative_to(self._directory))


def heat_map(result: str, errors: Mapping[str, Any]) -> dict[str, Any]:
    """The errors of one result as rows of cells: an index, how far off, and how dark, 0 to 5.

    A row is all axes but the last, a column the last.
    """
    shape, elements = tuple(errors["shape"]), errors["elements"]
    width = max(1, shape[-1]) if shape else 1
    values = [math.inf if element is None else element for element in elements]
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    together = -(-len(rows) // _MOST_ROWS)
    merged = [
        [max(column) for column in zip(*rows[start : start + together])]
        for start in range(0, len(rows), together)
    ]
    worst = max((value for value in values if math.isfinite(value)), default=0.0)
    prefixes = list(np.ndindex(*shape[:-1])) if shape else [()]
    return {
        "result": result,
        "shape": shape,
        "together": together,
        "shown": len(values),
        "worst": worst,
        "rows": [
            {
                "index": ", ".join(map(str, prefixes[number * together])),
                "cells": [{"value": _short(value), "level": _level(value, worst)} for value in row],
            }
            for number, row in enumerate(merged)
        ],
    }


def _level(value: float, worst: float) -> int:
    """0: right; 1 to 4: by the order of magnitude below the worst; 5: no number."""
    if value == 0:
        return 0
    if not math.isfinite(value):
        return 5
    return max(1, 4 - int(math.log10(worst / value)))


def _short(value: float) -> str:
    return "no number" if not math.isfinite(value) else f"{value:.3g}"


def render(name: str, content: Mapping[str, Any]) -> str:
    """The file `name`: JSON, or from the template of that name."""
    if name.endswith(".json"):
        return json.dumps(content, indent=1, allow_nan=False) + "\n"
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(heat_map=heat_map, results=RESULTS, parts=SPREAD)
    environment.filters["first_line"] = lambda text: text.partition("\n")[0]
    words = {key.replace(" ", "_"): value for key, value in content.items()}
    text = environment.get_template(f"{name}.j2").render(words)
    return text.encode(errors="replace").decode()  # an oracle's words may hold half a character


def _boxes(entry: Entry) -> list[dict[str, Any]]:
    """What an oracle claims to take, box by box."""
    if not entry.installed:
        return []
    return [asdict(box) for box in entry.oracle.domain.boxes]


def _save_arrays(path: Path, finding: Finding) -> None:
    problem = problem_from_json(finding.problem)
    arrays: dict[str, Array] = {"x": problem.x, "w": problem.w, "dy": problem.dy}
    if problem.b is not None:
        arrays["b"] = problem.b
    narrow = {name for name, array in arrays.items() if array.dtype.name == "bfloat16"}
    arrays = {n: a.astype(np.float32) if n in narrow else a for n, a in arrays.items()}
    temporary = path.with_name(f".{path.stem}.npz")
    np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # NumPy's stub
    temporary.replace(path)


def _last_words(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:2000]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _and(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last
