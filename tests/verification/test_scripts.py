"""What a standalone script runs is what the oracle runs, and it shows what it should."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from oracles import divergences
from oracles.compare import Verdict, expected_of, judge
from oracles.protocol import Box, Differs, Domain, Evidence
from oracles.registry import Entry, connect, find, names, variants
from oracles.worker import Connection
from reference import ConvGrads, ConvParams, ConvProblem, conv_backward
from tests.support import scripts
from tests.support.scripts import standalone
from tests.support.strategies import problems
from tests.support.verification import Verification

PROBLEM = ConvProblem(
    np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2, 1),
    np.ones((1, 1, 1, 1), np.float32),
    None,
    np.ones((1, 2, 2, 1), np.float32),
    ConvParams(),
)


def test_the_source_is_right(
    oracle: Connection, verification: Verification, subtests: pytest.Subtests
) -> None:
    """Asked through its source, an oracle of the tree answers all kinds of problems rightly."""
    base = verification.entry(oracle.name).base
    for name in [base, *(variants(base) if base in names() else [])]:
        entry = find(name)
        if not hasattr(entry.oracle, "script"):
            assert standalone(Verdict(name, PROBLEM, "crashes"), entry) is None
        elif base.partition(":")[0] in names():
            with subtests.test(name):
                check_source(entry)


def is_there(entry: Entry) -> bool:
    """Whether what the oracle needs beside its distribution, such as a GPU, is there."""
    try:
        getattr(entry.oracle, "prepare", lambda: None)()
    except RuntimeError:
        return False
    return True


def check_source(entry: Entry) -> None:
    """Fail if what the source of an oracle computes is wrong, outside the ledger.

    Of one that needs what is not there, only that it is Python.
    """
    if not is_there(entry):
        ast.parse(entry.oracle.script(PROBLEM))  # type: ignore[attr-defined]
        return
    worker = connect(find(f"tests.support.scripted:{entry.base.replace(':', '_')}"))
    try:
        for rank, dtype in entry.oracle.domain.cells():

            @settings(max_examples=30, database=None)
            @given(problem=problems(entry.oracle.domain, rank, dtype))
            def agrees(problem: ConvProblem) -> None:
                if not divergences.find(entry.base, entry.version or "", problem):
                    judge(worker, problem).check()

            agrees()
    finally:
        worker.close()


CALLS = "calls = globals().setdefault('calls', []); calls.append(1); "


class Saboteur:
    """An oracle whose source is wrong in the second question only."""

    domain = Domain(Box(ranks=(2,), dtypes=("float32",)))

    def __init__(self, source: str) -> None:
        self._source = source

    def script(self, _: ConvProblem) -> str:
        """Right answers for a kernel of one tap, then the source."""
        right = "dx, dw, db, y = dy * w[0, 0, 0], np.sum(x * dy).reshape(1, 1, 1, 1), None, x"
        return f"{right}\n{self._source}"


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("", 0, "not reproduced"),
        ("dx = dx + 1", 1, "DEFECT: ask 0: dx ="),
        ("dx = dx[..., 0]", 1, "DEFECT: ask 0: dx.shape = (1, 2, 2), but should be (1, 2, 2, 1)"),
        (
            CALLS + "\nif len(calls) > 1: raise TypeError('no')",
            1,
            "DEFECT: ask 0: raises TypeError: no",
        ),
        ("os.abort()", -6, ""),
        (
            CALLS + "dx = dx + (len(calls) > 7)",
            1,
            "DEFECT: ask 6: dx =",
        ),
    ],
)
def test_a_script_shows_the_defect_by_itself(
    source: str, code: int, words: str, tmp_path: Path
) -> None:
    """Run in an empty directory, it says what it should, and needs nothing of this project."""
    entry = Entry("mine", Saboteur(source), "1.0")  # type: ignore[arg-type]
    evidence = Evidence(PROBLEM, (PROBLEM,), asks=3)
    verdict = Verdict("mine", PROBLEM, Differs.kind, 'mine """\\ wrong', evidence=evidence)
    text = standalone(verdict, entry)
    assert text is not None
    assert "oracles" not in text
    assert "reference" not in text
    path = tmp_path / "script.py"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-I", path.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [("", 0, "not reproduced"), ("dw = np.nan_to_num(dw)", 1, "DEFECT: ask 0: dw =")],
)
def test_a_script_knows_nan_and_inf(source: str, code: int, words: str, tmp_path: Path) -> None:
    """NaN should be NaN, and Inf the same Inf."""
    dy = np.float32([np.inf, 1, -np.inf, np.nan]).reshape(1, 2, 2, 1)
    entry = Entry("mine", Saboteur(source), "1.0")  # type: ignore[arg-type]
    verdict = Verdict("mine", replace(PROBLEM, dy=dy), Differs.kind, "mine is wrong")
    path = tmp_path / "script.py"
    path.write_text(standalone(verdict, entry) or "")
    done = subprocess.run(
        [sys.executable, "-I", path.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("signs", "source", "is_right"),
    [
        ("++++", "", True),  # Inf
        ("++++", "dw = -dw", False),
        ("++++", "dw = np.nan_to_num(dw)", False),
        ("++++", "dw[:] = np.nan", False),
        ("+-+-", "", True),  # 0, Inf, -Inf or NaN: it depends on the order
        ("+-+-", "dw[:] = 0", True),
        ("+-+-", "dw[:] = np.inf", True),
        ("+-+-", "dw[:] = np.nan", True),
        ("+-+-", "dw[:] = 1e38", False),
    ],
)
def test_a_script_knows_what_is_too_large(
    signs: str, source: str, is_right: bool, tmp_path: Path
) -> None:
    """It should be Inf; where only a part of the sum is, that or the right result will do."""
    x = np.full((1, 2, 2, 1), 2e19, np.float32)
    dy = x * np.float32([1 if sign == "+" else -1 for sign in signs]).reshape(x.shape)
    entry = Entry("mine", Saboteur(source), "1.0")  # type: ignore[arg-type]
    verdict = Verdict("mine", replace(PROBLEM, x=x, dy=dy), Differs.kind, "mine is wrong")
    path = tmp_path / "script.py"
    path.write_text(standalone(verdict, entry) or "")
    done = subprocess.run(
        [sys.executable, "-I", path.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if is_right else 1), done.stderr
    assert ("not reproduced" if is_right else "DEFECT: ask 0: dw =") in done.stdout


def test_a_script_allows_for_its_own_rounding() -> None:
    """What should be is in float64: that is off, too, where the answer is."""
    x = (0.1 * PROBLEM.x).astype(np.float64)
    arrays = {name: getattr(PROBLEM, name).astype(np.float64) / 3 for name in ("w", "dy")}
    problem = replace(PROBLEM, x=x, **arrays)
    domain = Domain(Box(ranks=(2,), dtypes=("float64",)))
    allowed, of_oracle = scripts._expected(problem, domain)[1], expected_of(problem, domain).allowed
    assert (allowed.y > of_oracle.y).all()
    assert (allowed.y < 2 * of_oracle.y).all()


def test_what_should_be_does_not_come_from_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the definition in rational arithmetic: a wrong reference spoils no script."""
    entry = Entry("mine", Saboteur(""), "1.0")  # type: ignore[arg-type]
    verdict = Verdict("mine", PROBLEM, Differs.kind, "mine dx is wrong")
    text = standalone(verdict, entry)

    def wrong(*arguments: Any) -> ConvGrads:
        right = conv_backward(*arguments)
        return replace(right, dx=right.dx + 1, dw=right.dw + 1)

    monkeypatch.setattr("reference.rounding.conv_backward", wrong)
    assert standalone(verdict, entry) == text
