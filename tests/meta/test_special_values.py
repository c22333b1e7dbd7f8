"""The table of NaN and Inf says what is so: of who keeps to the rule, and of who does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles import divergences
from oracles.compare import reference_grads
from oracles.registry import connect, find
from tests.benchmarks import special_values
from tests.benchmarks.special_values import (
    FORMS,
    ROWS,
    SAME,
    Form,
    Row,
    Table,
    differences,
    kinds,
    where,
)

FEW = [form for form in FORMS if form.dtype == "float32" and form.channels in (3, 4)]
each_row = pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.array}-{row.situation.words}-{row.value}"
)


def cell(name: str, row: Row) -> str:
    """What the table says of a member of the zoo."""
    entry = find(f"tests.support.zoo:{name}")
    return special_values.cell(entry, connect(entry, in_process=True), row, FEW)


@each_row
def test_plain_loops_are_as_the_reference(row: Row) -> None:
    """Every row of an oracle that keeps to the rule says so."""
    assert cell("plain_loops", row) == SAME


@each_row
def test_multiplied_padding_is_seen(row: Row) -> None:
    """It makes NaN of what w holds in y, of what dy holds in dW, and nothing without padding."""
    wrong = {"w": "y NaN, not a number", "dy": "dW NaN, not a number"}
    expected = wrong.get(row.array, SAME) if row.situation.padding else SAME
    assert cell("multiplies_padding", row) == expected


def test_an_oracle_without_an_answer() -> None:
    """Its cell says how it fails."""
    assert cell("raises", ROWS[0]) == "raises NotImplementedError: no kernel for this"


def test_who_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside its domain and where the ledger knows a defect no oracle is asked."""
    tensorflow = find("tensorflow")
    oracle = connect(tensorflow, in_process=True)
    refused = Form(3, "float64", 4, 8, groups=4)
    assert special_values.cell(tensorflow, oracle, ROWS[0], [refused]) == "not asked"
    monkeypatch.setattr(divergences, "find", lambda *_: "a record")
    assert cell("raises", ROWS[0]) == "not asked"


def test_every_row_has_its_value() -> None:
    """One NaN or Inf where the row says, and in an unread cell it reaches nothing."""
    for row in ROWS:
        problem = row.problem(FEW[0])
        for name in ("x", "w", "dy"):
            found = kinds(getattr(problem, name).ravel())
            assert [kind for kind in found if kind not in ("0", "a number")] == (
                [row.value] if name == row.array else []
            )
            assert ("0" in found) == (name == row.situation.zeros)
        grads = reference_grads(problem)
        reached = not all(np.isfinite(array).all() for array in (grads.dx, grads.dw, grads.y))
        assert reached == (row.array != "x" or row.situation.stride == 1)


@pytest.mark.parametrize(
    ("got", "want", "words"),
    [
        ([np.nan, 1], [np.nan, 1], []),
        ([np.nan, np.nan], [0, 1], ["NaN, not 0", "NaN, not a number"]),
        ([0, np.inf], [np.nan, np.inf], ["0, not NaN"]),
        ([np.nan, np.nan], [np.inf, 1], ["NaN, not Inf", "NaN, not a number"]),
        ([np.inf, 0], [np.nan, 0], ["Inf, not NaN"]),
        ([-np.inf, 3], [np.inf, 3], ["-Inf, not +Inf"]),
        ([-np.inf, 3], [-np.inf, 4], ["a number, not the same"]),
    ],
)
def test_words(got: list[float], want: list[float], words: list[str]) -> None:
    """What differs is said in the words of the table."""
    grads = reference_grads(ROWS[0].problem(FEW[0]))
    one, other = replace(grads, dw=np.array(got)), replace(grads, dw=np.array(want))
    assert sorted(difference.words for difference in differences(one, other)) == words
    assert {difference.result for difference in differences(one, other)} <= {"dW"}


A, B, C, D = (Form(rank, dtype, 1, 1, 1) for rank in (1, 2) for dtype in ("float32", "float64"))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([A, B, C, D], ""),
        ([A, B], " in 1-D"),
        ([B, D], " in float64"),
        ([D], " in 2-D float64"),
        ([A, D, B], " in 1-D, float64"),
        ([A, D], " in 1-D float32, 2-D float64"),
    ],
)
def test_where(at: list[Form], words: str) -> None:
    """What the problems have in common, and none of the others."""
    assert where(at, [A, B, C, D]) == words


def test_rows_that_differ_in_the_value_only_are_one() -> None:
    """They are merged if every oracle's cells are the same, and only then."""
    alike = {"one": [SAME] * len(ROWS), "other": [row.value for row in ROWS]}
    assert len(Table(alike).lines) == len(ROWS)
    del alike["other"]
    assert Table(alike).lines[0] == ["x", "no padding", "NaN, +Inf, -Inf", SAME]
    assert len(Table(alike).lines) == len(ROWS) / 3


def test_the_command_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is printed, and the file has it with the command that makes it."""
    monkeypatch.setattr(special_values, "ROWS", ROWS[:3])
    path = tmp_path / "table.md"
    special_values.main(["--oracle", "tests.support.zoo:right[A=B]", f"--write={path}"])
    assert "[A=B]" in capsys.readouterr().out
    text = path.read_text()
    assert f"| x | no padding | NaN, +Inf, -Inf | {SAME} |" in text
    assert f"special_values '--oracle=tests.support.zoo:right[A=B]' --write {path}`" in text
