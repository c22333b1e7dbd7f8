"""`python -m tests.benchmarks.special_values`: what each oracle makes of NaN and Inf.

A fixed set of problems with one NaN, +Inf or -Inf in x, w or dy is asked, and the answers are held
against the reference's rule (`reference.naive`). Frameworks need not keep to that: this is
information, never pass or fail. `--write FILE` also writes the table as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oracles import divergences
from oracles.compare import RESULTS, reference_grads
from oracles.protocol import OracleError
from oracles.registry import Entry, connect, entries, find
from oracles.worker import Connection
from reference import ConvGrads, ConvParams, ConvProblem, output_size
from reference.problem import Array

COMMAND = "python -m tests.benchmarks.special_values"
VALUES = {"NaN": np.nan, "+Inf": np.inf, "-Inf": -np.inf}
SEED = 0
BATCH = 2
SAME = "as the reference"
_NAMES = {"dx": "dX", "dw": "dW", "db": "db", "y": "y"}
_LONGEST = 60  # characters of an error's text
_MOST_TRAITS = 4  # descriptions beyond which problems are only counted


@dataclass(frozen=True)
class Form:
    """What problems of one row differ in: rank, dtype, input and output channels, groups."""

    rank: int
    dtype: str
    channels: int
    filters: int
    groups: int

    @property
    def traits(self) -> tuple[str, str, str]:
        """What may set it apart from others, in words."""
        channels = "depthwise" if self.groups > 1 else f"C={self.channels}"
        return f"{self.rank}-D", self.dtype, channels


FORMS = [
    Form(rank, dtype, *channels)
    for rank in (1, 2, 3)
    for dtype in ("float32", "float64")
    for channels in ((1, 1, 1), (3, 4, 1), (16, 16, 1), (4, 8, 4))
]


@dataclass(frozen=True)
class Situation:
    """Sizes that are the same on every axis; `cell` of x holds the value, `zeros` is all zeros."""

    words: str
    cells: int = 5
    taps: int = 3
    stride: int = 1
    padding: int = 0
    cell: int = 2
    zeros: str = ""


SITUATIONS = (
    Situation("no padding"),
    Situation("window partly in padding", padding=1, cell=0),
    Situation("stride leaves cells unread", taps=2, stride=3),  # one on each axis, cell 2
    *(Situation(f"meets zeros in {name}", zeros=name) for name in ("x", "w", "dy")),
)


@dataclass(frozen=True)
class Row:
    """A row of the table: `value` lies in `array`, in `situation`."""

    array: str
    situation: Situation
    value: str

    def problem(self, form: Form) -> ConvProblem:
        """Positive integers but for one `value`: no sum of them is 0, no two of them cancel."""
        at = self.situation
        spatial, kernel = (at.cells,) * form.rank, (at.taps,) * form.rank
        stride, padding = (at.stride,) * form.rank, ((at.padding,) * 2,) * form.rank
        params = ConvParams(stride, padding, (1,) * form.rank, form.groups)
        shapes = {
            "x": (BATCH, *spatial, form.channels),
            "w": (*kernel, form.channels // form.groups, form.filters),
            "dy": (BATCH, *output_size(spatial, kernel, params), form.filters),
        }
        random = np.random.default_rng(SEED)
        arrays = {
            name: random.integers(1, 4, shape).astype(form.dtype) for name, shape in shapes.items()
        }
        if at.zeros:
            arrays[at.zeros][...] = 0
        cell = (at.cell if self.array == "x" else 0,) * form.rank  # corners of w, dy meet padding
        index = (*cell, -1, -1) if self.array == "w" else (-1, *cell, -1)
        arrays[self.array][index] = VALUES[self.value]
        return ConvProblem(arrays["x"], arrays["w"], None, arrays["dy"], params)


ROWS = [
    Row(array, situation, value)
    for array in ("x", "w", "dy")
    for situation in SITUATIONS
    for value in VALUES
    if array != situation.zeros
]


@dataclass(frozen=True)
class Table:
    """What was found: a cell per oracle, with its version, and row."""

    columns: dict[str, list[str]]

    @property
    def heads(self) -> list[str]:
        """The names of the columns."""
        return ["in", "situation", "value", *self.columns]

    @property
    def lines(self) -> list[list[str]]:
        """The rows as text; those that differ in the value only are one."""
        found: dict[tuple[str, ...], list[str]] = {}
        for row, *cells in zip(ROWS, *self.columns.values()):
            found.setdefault((row.array, row.situation.words, *cells), []).append(row.value)
        return [
            [array, situation, ", ".join(values), *cells]
            for (array, situation, *cells), values in found.items()
        ]

    def show(self) -> None:
        """Print the table."""
        from rich import box, table
        from rich import print as rich_print
        from rich.text import Text  # which, unlike str, may have brackets in it

        shown = table.Table(box=box.SIMPLE_HEAD, show_edge=False)
        for head in self.heads:
            shown.add_column(Text(head))
        for line in self.lines:
            shown.add_row(*map(Text, line))
        rich_print(shown)

    def markdown(self, command: str) -> str:
        """The table with what one needs to read it, and to make it again by `command`."""
        lines = [self.heads, ["---"] * len(self.heads), *self.lines]
        has = "with" if "avx512f" in divergences.cpu_flags() else "without"
        return "\n".join(
            [
                "# NaN and Inf in x, w or dy",
                "",
                _LEGEND,
                "",
                f"Made by `{command}` with NumPy {np.__version__}, on a processor {has} AVX-512:",
                "",
                *(f"| {' | '.join(line)} |" for line in lines),
                "",
            ]
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, print the table, and write it if that is wanted."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="NaN and Inf in each oracle")
    parser.add_argument(
        "--oracle", action="append", default=[], metavar="NAME", help="only this (repeatable)"
    )
    parser.add_argument("--write", metavar="FILE", help="write the table as Markdown, too")
    given = parser.parse_args(arguments)
    chosen = [find(name) for name in given.oracle] or entries()
    installed = [entry for entry in chosen if entry.installed]
    table = Table({f"{entry.name} {entry.version}".strip(): column(entry) for entry in installed})
    table.show()
    for entry in chosen:
        if not entry.installed:
            print(entry.missing)
    if given.write is not None:
        options = [f"--oracle={name}" for name in given.oracle]
        command = shlex.join([*COMMAND.split(), *options, "--write", given.write])
        Path(given.write).write_text(table.markdown(command))


def column(entry: Entry) -> list[str]:
    """A cell for each of `ROWS`."""
    oracle = connect(entry)
    try:
        return [cell(entry, oracle, row) for row in ROWS]
    finally:
        oracle.close()


def cell(entry: Entry, oracle: Connection, row: Row, forms: Sequence[Form] = FORMS) -> str:
    """How the oracle's answers to one row's problems differ from the reference's, in few words.

    It is not asked outside its domain and where the ledger knows that it goes wrong.
    """
    asked: list[Form] = []
    found: dict[Difference, list[Form]] = {}
    for form in forms:
        problem = row.problem(form)
        known = divergences.find(entry.base, entry.version or "", problem, entry.environment)
        if known is not None or not oracle.domain.accepts(problem):
            continue
        asked.append(form)
        for difference in answer(oracle, problem):
            found.setdefault(difference, []).append(form)
    if not asked:
        return "not asked"
    alike: dict[tuple[str, str], list[str]] = {}
    for difference, at in found.items():
        alike.setdefault((difference.words, where(at, asked)), []).append(difference.result)
    parts = (f"{', '.join(names)} {words}{at}" for (words, at), names in alike.items())
    return "; ".join(part.strip() for part in parts) or SAME


class Difference(NamedTuple):
    """A kind of value that stands in `result` where the reference has another one.

    An answer that there is not has no `result`, and `got` says why.
    """

    result: str
    got: str
    want: str = ""

    @property
    def words(self) -> str:
        """Such as "NaN, not 0"; Inf has its sign only where that is what differs."""
        if not self.want:
            return self.got
        if self.got == self.want:
            return f"{self.got}, not the same"
        if {self.got, self.want} == {"+Inf", "-Inf"}:
            return f"{self.got}, not {self.want}"
        return f"{self.got.lstrip('+-')}, not {self.want.lstrip('+-')}"


def answer(oracle: Connection, problem: ConvProblem) -> list[Difference]:
    """What differs between the oracle's answer and the reference's, or why there is none."""
    try:
        with np.errstate(invalid="ignore"):
            got = oracle.grads(problem)
    except OracleError as error:
        return [Difference("", str(error).splitlines()[0][:_LONGEST])]
    return differences(got, reference_grads(problem))


def differences(got: ConvGrads, want: ConvGrads) -> list[Difference]:
    """The kinds of values that stand where the reference has others, each once."""
    found = []
    for name in RESULTS:
        one, other = getattr(got, name), getattr(want, name)
        if one is None or other is None:
            continue
        if one.shape != other.shape:
            found.append(Difference(_NAMES[name], f"shape {one.shape}", f"{other.shape}"))
            continue
        bad = ~((one == other) | (np.isnan(one) & np.isnan(other)))
        pairs = sorted({*zip(kinds(one[bad]), kinds(other[bad]))})
        found += [Difference(_NAMES[name], *pair) for pair in pairs]
    return found


def kinds(values: Array) -> list[str]:
    """What each value is: NaN, +Inf, -Inf, 0 or a number."""
    tests = [np.isnan(values), values == np.inf, values == -np.inf, values == 0]
    return [str(kind) for kind in np.select(tests, [*VALUES, "0"], "a number")]


def where(at: Sequence[Form], asked: Sequence[Form]) -> str:
    """In which of the problems asked: "" for all, " in float64, 1-D depthwise" or " in 3 of 8".

    The descriptions hold for none but `at`, and the first one for as many of them as any does.
    """
    left, words = set(at), []
    if left == set(asked):
        return ""
    sizes = range(1, 4)
    every = {
        traits: {form for form in asked if set(traits) <= set(form.traits)}
        for size in sizes
        for form in at
        for traits in itertools.combinations(form.traits, size)
    }
    only = {traits: forms for traits, forms in every.items() if forms <= set(at)}
    while left:
        best = max(only, key=lambda traits: len(only[traits] & left))
        left -= only[best]
        words.append(" ".join(best))
    if len(words) > _MOST_TRAITS:
        return f" in {len(at)} of {len(asked)}"
    return f" in {', '.join(words)}"


_LEGEND = """\
What each oracle makes of one NaN, +Inf or -Inf, held against the reference. Its rule: a tap in the
padding is absent, not a product with zero; everything else is IEEE 754, so 0 * Inf inside the input
is NaN. Frameworks need not keep to that: this is information, not pass or fail. Whose domain says
`special_values=True` is held to it, by `tests/verification/test_special_values.py`; none of the
oracles below can say so, nor can their variants.

"dX NaN, not 0" says that some elements of dX are NaN where the reference has 0; "0" is a sum of
nothing but zeros. A cell sums up problems of 1 to 3 dimensions in float32 and float64 with 1, 3 or
16 channels and depthwise ones, as far as the oracle takes them; "in ..." says for which of them it
holds, nothing that it holds for all. On each axis x has five cells and w three taps, two where the
stride of three leaves cells unread; padding is one cell on each side. The value lies in the middle
of x, an unread cell if there are any, or in a corner of x if there is padding; in w and dy it lies
in a corner.

`numerical` has NaN wherever it takes the difference of two sums that the value is in."""


if __name__ == "__main__":
    main()
