"""`python -m tests.benchmarks.power_report`: docs/power.md and docs/power.svg from what was found.

Read are docs/power_peers.json, of `tests.benchmarks.power_peers`, and docs/power.json, of our own
checks, if it is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.benchmarks.power_peers import COMMAND as PEERS_COMMAND
from tests.benchmarks.power_peers import DEAR, JUDGES, LIMIT, VAIN
from tests.support.mutants import ALLOWED, MUTANTS
from tests.support.regressions import write_atomically

COMMAND = "python -m tests.benchmarks.power_report"
OURS_COMMAND = "python -m tests.benchmarks.power"
OURS = "**ours**"
SMALL = 64  # elements of x, w and dy together
UNION = "all others together"


@dataclass(frozen=True)
class Report:
    """What was found: `peers` and `ours` are the contents of the two files.

    `names` are the mutants, `allowed` those that are right.
    """

    peers: Mapping[str, Any]
    ours: Mapping[str, Any]
    names: Sequence[str]
    allowed: Sequence[str]

    @property
    def judges(self) -> list[str]:
        """Those that were asked, in the order in which they are listed."""
        return [judge for judge in JUDGES if judge in self.peers["judges"]]

    def caught(self, judge: str) -> list[str]:
        """The mutants that a judge, OURS or UNION catches."""
        if judge == OURS:
            return [name for name in self.names if self.ours.get(name, {}).get("check")]
        judges = self.judges if judge == UNION else [judge]
        return [name for name in self.names if any(self._is_caught(name, one) for one in judges)]

    def _is_caught(self, name: str, judge: str) -> bool:
        return bool(self._cell(name, judge).get("caught"))

    def _cell(self, name: str, judge: str) -> Mapping[str, Any]:
        cell: Mapping[str, Any] = self.peers["mutants"].get(name, {}).get(judge, {})
        return cell

    def cell(self, name: str, judge: str) -> str:
        """What the matrix says."""
        cell = self._cell(name, judge)
        if cell.get("caught"):
            how = cell["how"]
            return "caught" if how == "differs" else f"caught: {how}"
        if cell.get("how") == "too slow":
            return "too slow"
        if not cell.get("asked"):
            return "not asked"
        return f"missed, {cell['skipped']} not run" if cell.get("skipped") else "missed"

    def our_cell(self, name: str) -> str:
        """The check that catches it, and after how many problems, the median of the seeds."""
        found = self.ours.get(name, {})
        if not found.get("check"):
            return "missed" if found else "not asked"
        problems = statistics.median(n for n in found["problems"] if n is not None)
        return f"{found['check']}, {problems:g}"

    def false_alarms(self, judge: str) -> str:
        """Of how many that are right something is said, and on how many cases."""
        alarms = self.peers["judges"][judge]["false_alarms"]
        blamed = {name for name, cases in alarms.items() if cases}
        blamed |= {name for name in self.allowed if self._is_caught(name, judge)}
        count = len({*alarms, *self.allowed})
        cases = len(set().union(*alarms.values()))
        return f"{len(blamed)} of {count}" + (f", {cases} cases" if cases else "")

    def summary(self) -> list[list[str]]:
        """A line for each judge."""
        lines = []
        for judge in self.judges:
            of_judge = self.peers["judges"][judge]
            not_asked = sum(self.cell(name, judge) == "not asked" for name in self.names)
            unfinished = sum("not run" in self.cell(name, judge) for name in self.names)
            unfinished += sum(self.cell(name, judge) == "too slow" for name in self.names)
            lines.append(
                [
                    judge,
                    of_judge["words"],
                    str(of_judge["cases"]),
                    self.share(judge),
                    str(not_asked),
                    str(unfinished),
                    self.false_alarms(judge),
                    f"{of_judge['seconds']:.3g}",
                ]
            )
        lines.append([UNION, "", "", self.share(UNION), "", "", "", ""])
        if self.ours:
            lines.append([OURS, "", "", self.share(OURS), "", "", "", ""])
        return lines

    def share(self, judge: str) -> str:
        """How many it catches, in words."""
        return f"{len(self.caught(judge))} of {len(self.names)}"

    def bars(self) -> dict[str, int]:
        """What the plot shows."""
        judges = [*([OURS] if self.ours else []), UNION, *self.judges]
        return {judge.strip("*"): len(self.caught(judge)) for judge in judges}

    def markdown(self) -> str:
        """The tables, what one needs to read them, and how to make them again."""
        versions = dict.fromkeys(self.peers["judges"][judge]["version"] for judge in self.judges)
        heads = ["mutant", *([OURS] if self.ours else []), *self.judges]
        rows = [
            [
                f"`{name}`",
                *([self.our_cell(name)] if self.ours else []),
                *(self.cell(name, judge) for judge in self.judges),
            ]
            for name in self.names
        ]
        unseen = [name for name in self.names if name not in self.caught(UNION)]
        parts = [
            _LEGEND.format(count=len(self.names), limit=LIMIT, vain=VAIN, dear=DEAR),
            f"Made by `{PEERS_COMMAND} --write docs/power_peers.json` with "
            f"{', '.join(versions)}, and `{COMMAND}`.",
            "![Share of mutants that each judge catches](power.svg)",
            "## The judges",
            _table(
                [
                    "judge",
                    "what it is",
                    "cases",
                    "caught",
                    "not asked",
                    "not finished",
                    "false alarms",
                    "seconds",
                ],
                self.summary(),
            ),
            "## Mutants that none of the others catches",
            "\n".join(f"- `{name}`: {_words(name)}" for name in unseen),
            *(self.ours_in_full() if self.ours else []),
            "## All mutants",
            _table(heads, rows),
            "## What is wrong with them",
            "\n".join(f"- `{name}`: {_words(name)}" for name in self.names),
        ]
        return "\n\n".join(parts) + "\n"

    def ours_in_full(self) -> list[str]:
        """What our checks find, by which one and how soon, and how small; and the reports."""
        heads = ["mutant", "caught by", "problems", "most", "seconds", "elements", "regions"]
        big = {name: of for name, of in self.ours.items() if (of["size"] or 0) > SMALL}
        reports = sorted(
            {(report, name) for name, of in self.ours.items() for report in of["upstream"]},
            key=lambda pair: (pair[0].lower(), pair[1]),
        )
        return [
            "## Ours",
            _OURS_LEGEND,
            _table(heads, [[f"`{name}`", *_ours(of)] for name, of in self.ours.items()]),
            f"Of more than {SMALL} elements, and why:",
            "\n".join(f"- `{name}`, {of['size']:,}: {_needs(name)}" for name, of in big.items()),
            "## Reports that a mutant is modelled on",
            "What would have caught each, after how many problems and seconds.",
            _table(
                ["report", "mutant", *heads[1:5]],
                [[report, f"`{name}`", *_ours(self.ours[name])[:4]] for report, name in reports],
            ),
        ]


def _ours(of: Mapping[str, Any]) -> list[str]:
    """The cells of one mutant."""
    problems = [count for count in of["problems"] if count is not None]
    seconds = [figure for figure in of["seconds"] if figure is not None]
    if not problems:
        return ["missed", *["-"] * 5]
    return [
        of["check"],
        f"{statistics.median(problems):,.0f}",
        f"{max(problems):,}",
        f"{statistics.median(seconds):.2f}",
        f"{of['size']:,}",
        "; ".join(of["regions"]),
    ]


def _needs(name: str) -> str:
    return MUTANTS[name].needs if name in MUTANTS else "not known"


def _words(name: str) -> str:
    return " ".join(MUTANTS[name].words.split()) if name in MUTANTS else ""


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def svg(bars: Mapping[str, int], count: int) -> str:
    """A horizontal bar for each entry, of `count` at most."""
    row, left, width = 26, 180, 480
    height = row * len(bars) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 110} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, caught) in enumerate(bars.items()):
        y = 6 + row * number
        color = "#1a7f37" if name == "ours" else "#6e7781"
        length = width * caught / count
        lines += [
            f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y + 3}" width="{width}" height="{row - 6}" fill="#eaeef2"/>',
            f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{row - 6}" '
            f'fill="{color}"/>',
            f'<text x="{left + width + 8}" y="{y + 17}">{caught} of {count}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table and the plot."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="who catches which mutant")
    parser.add_argument("--peers", type=Path, default=Path("docs/power_peers.json"))
    parser.add_argument("--ours", type=Path, default=Path("docs/power.json"))
    parser.add_argument("--to", type=Path, default=Path("docs"), help="a directory")
    given = parser.parse_args(arguments)
    ours = json.loads(given.ours.read_text())["mutants"] if given.ours.exists() else {}
    report = Report(json.loads(given.peers.read_text()), ours, [*MUTANTS], [*ALLOWED])
    write_atomically(given.to / "power.md", report.markdown())
    write_atomically(given.to / "power.svg", svg(report.bars(), len(report.names)))


_LEGEND = """\
# {count} wrong backwards, and who catches them

Each mutant of `tests/support/mutants` is the reference's answer but for one fault; many are
modelled on reports about real frameworks. Every cell comes from running the judge on the cases of
its own tests, not on ours: what somebody gets who hands a backward to that suite.

- `gradcheck` of PyTorch and `compute_gradient` of TensorFlow get the right forward and the mutant
  as its backward, as an `autograd.Function` and a `custom_gradient`; a mutant of y alone is its own
  forward. `check_grads` of JAX comes down to `check_vjp`, which gets both as NumPy functions.
- PyTorch's cases are the sample inputs of conv1d, conv2d and conv3d. JAX's are those of its three
  tests of convolutions that have no dilated input, negative padding, groups of the batch or empty
  axis; all of them, where JAX's own run draws ten of each test. TensorFlow's are the gradient tests
  of conv2d and conv3d that do not need a GPU. Arrays are contiguous, channels last, and their data
  of the peer's kind, drawn once.
- ONNX has no gradients. The node tests of ConvTranspose give dX; they and those of Conv, with
  dy = y, are asked for dX, dW and y. What is right for dW is the reference, rounded once.
- "by hand" are nine layers as most projects test them.

"caught" is an alarm at a case where the judge raises none for three backwards that are right: the
reference, one that sums in another order, one that rounds once. An exception, a crash or a hang is
an alarm, and named. "not asked": no case looks at what the mutant spoils, or is in its domain; the
cases of JAX, TensorFlow and ONNX have no bias. "false alarms": how many of the right backwards,
those three and the mutants that are allowed, the judge blames, and on how many cases.

Each judge has {limit:g} seconds of computing for a mutant. Where that is too short for all cases,
those come first whose own data the mutant answers wrongly, and the others get {vain:g} seconds;
"not finished" counts the mutants that were missed when not all of the former had been run. A case
of more than {dear:g} seconds is asked about one right backward alone. "seconds" are for all cases
with a right backward.

The tries are not equal. Ours are random problems made for such faults, the others' cases are what
their authors found worth a test of a right implementation; a mutant in a region that they do not
test, empty batches, padding larger than the kernel, many channels, NaN, layouts of memory, cannot
be caught there, whatever the check is worth. `docs/precision.md` compares the checks themselves on
the same layers."""


_OURS_LEGEND = f"""\
Made by `{OURS_COMMAND} --write docs/power.json`: what the profile ci asks,
with five seeds; medians. "problems" and "seconds", of drawing and judging, are until the mutant is
caught, "most" is the most of the five; "elements" are those of x, w and dy together in the problem
that is left when it is made smaller, "regions" those that its failures are in and few passes."""


if __name__ == "__main__":
    main()
