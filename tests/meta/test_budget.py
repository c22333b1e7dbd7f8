"""`--budget` and `--minimum-problems`: a run that had too little time says so, or is red."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from pathlib import Path

import jsonschema
import pytest

from oracles.registry import find
from tests.meta.test_face import EXACT, run_pytest
from tests.meta.test_report import SCHEMA
from tests.support.budget import ENDLESS, Budget, Purse, seconds_of
from tests.support.classes import regions
from tests.support.mutants import MUTANTS
from tests.support.power import hunt
from tests.support.reporting import CLASSES, Tally
from tests.support.verification import Verification
from tests.verification.test_coverage import check_time, verify

RIGHT = "tests.support.zoo:right"
REGION = "tests/verification/test_coverage.py::test_every_region"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("0.5m", 30), ("168h", 604_800)]
)
def test_a_time(text: str, seconds: float) -> None:
    """A number and its unit."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5 minutes", "1h30m", "169h", "nan s"])
def test_no_time(text: str) -> None:
    """Anything else is an error that says what is allowed."""
    with pytest.raises(ValueError, match="must be a time such as 90s, 5m or 1h, at most 168h"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--budget=5x", "ERROR: --budget 5x: must be a time such as 90s, 5m or 1h, at most 168h"),
        ("--minimum-problems=0", "ERROR: --minimum-problems 0: must be at least 1"),
    ],
)
def test_a_bad_value(option: str, words: str) -> None:
    """One line, before anything is asked."""
    code, output = run_pytest(option, EXACT)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert words in output


def test_shares() -> None:
    """Tests that still come have the same; nobody has more than what is left."""
    minute = Budget("1m", time.time() + 60, processes=2)
    assert minute.share(4) == pytest.approx(30, abs=1)
    assert minute.share(1) == pytest.approx(60, abs=1)
    assert Budget("1m", time.time() - 1).share(3) == 0
    assert ENDLESS.share(7) == float("inf")
    assert Budget("1m", time.time()).is_spent
    assert not ENDLESS.is_spent


def test_random_problems_are_cut_and_that_is_said(tmp_path: Path) -> None:
    """As many are asked as there is time for; the run is green, and does not hide it."""
    code, output = run_pytest(
        "--oracle", RIGHT, EXACT, "--problems=100000", "--budget=6s", f"--report={tmp_path}"
    )
    assert code == pytest.ExitCode.OK
    said = r"The budget of 6s left no time for (\d[\d,]*) of 600,000 random problems\."
    assert re.search(rf"Green: .*{said}", output)
    content = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    [oracle] = content["oracles"]
    cut = oracle["cut"]["random problems"]
    assert cut["of"] == 600_000
    assert cut["of"] - cut["cut"] == oracle["problems"] - oracle["weak"] > 100
    assert content["seconds"] < 12
    assert content["tests"]["passed"] == 6  # each had its share
    line = f"{cut['cut']:,} of 600,000 random problems of {RIGHT}"
    for name in ("report.html", "summary.md"):
        assert line in (tmp_path / name).read_text()
    assert f"no time for {line}" in output


def test_processes_share_one_budget(tmp_path: Path) -> None:
    """pytest-xdist's end together, and what each has cut is added up."""
    options = ("--problems=100000", "--budget=10s", "-n", "2", "--dist=worksteal")
    code, output = run_pytest("--oracle", RIGHT, EXACT, *options, f"--report={tmp_path}")
    assert code == pytest.ExitCode.OK
    assert re.search(r"left no time for [\d,]+ of 600,000 random problems\.", output)
    assert json.loads((tmp_path / "report.json").read_text())["tests"]["passed"] == 6


def test_a_fault_is_found_in_little_time(tmp_path: Path) -> None:
    """It is made small, whatever that takes, and explained."""
    name = "tests.support.zoo:two_regions"
    arguments = ("--oracle", name, EXACT, "-k", "2d-float32", "--problems=100000")
    code, output = run_pytest(*arguments, "--budget=3s", f"--regressions={tmp_path}")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "in common: " in output
    assert "Red: disagreement (1). " in output or "Red: crash (1). " in output


def test_classes_that_the_budget_cuts(tmp_path: Path) -> None:
    """Red if the oracle is to be verified, and the class has not been asked for before."""
    entry = find(RIGHT)
    verification = Verification(
        [entry],
        Tally(),
        in_process=True,
        time_limit=30,
        regressions=tmp_path,
        budget=Budget("5m", time.time() + 300),
    )
    oracle = verification.connection(entry.name)
    classes = list(deque(regions(entry.oracle.domain, turns=2), maxlen=5))
    assert {of.turn for of in classes} == {1}
    left = verify(oracle, classes, verification, share=0)
    assert len(left) == 5
    assert verification.tally.count(entry.name).cut == {CLASSES: [5, 5]}
    check_time(oracle, left, verification, 12)  # of a second turn: fewer problems, no less space
    left = regions(entry.oracle.domain)
    with pytest.raises(pytest.fail.Exception) as caught:
        check_time(oracle, left, verification, 12)
    words = f"{RIGHT} had 12 s of the budget of 5m: no time for {len(left):,} classes of problems"
    assert str(caught.value) == words
    verification.close()


def test_an_oracle_that_is_there_by_chance(tmp_path: Path, monkeypatch) -> None:
    """Unless it was named, what is cut of it turns nothing red."""
    entry = find(RIGHT)
    monkeypatch.setattr(entry.oracle, "required", False, raising=False)
    for chosen in ((), (entry.name,)):
        verification = Verification(
            [entry],
            Tally(),
            in_process=True,
            time_limit=30,
            regressions=tmp_path,
            chosen=chosen,
        )
        assert verification.is_wanted(entry.name) == bool(chosen)


def test_planted_faults_that_there_was_no_time_for() -> None:
    """They have not been caught."""
    mutants = dict(list(MUTANTS.items())[:3])
    assert hunt(mutants, 0, 1, Purse(0)) == {}
    assert len(hunt(mutants, 0, 1, Purse(1000))) == 3


def test_the_order() -> None:
    """What proves most comes first, and what is of the reference alone last."""
    _, output = run_pytest("--collect-only", "-q", "--oracle", "numerical", "tests/verification")
    lines = [line for line in output.splitlines() if "::" in line]
    files = list(dict.fromkeys(line.partition("::")[0].rpartition("/")[2] for line in lines))
    assert files[:6] == [
        "test_kept.py",
        "test_ledger.py",
        "test_coverage.py",
        "test_power.py",
        "test_precision.py",
        "test_conformance.py",
    ]
    before = files[: files.index("test_oracles.py")]
    assert "test_refusals.py" in before
    assert "test_laws.py" not in before


def test_what_is_not_begun(tmp_path: Path) -> None:
    """A test of an oracle is red, random problems and tests of the reference are said."""
    tests = ("tests/verification/test_kept.py", EXACT, "tests/verification/test_laws.py")
    arguments = ("--oracle", "numerical", *tests, "-k", "kept or numerical-1d-float32 or adjoint")
    code, output = run_pytest(*arguments, "--budget=0.01s", f"--report={tmp_path}")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "Red: cut (1), nothing asked (1). The budget of 0.01s left no time for " in output
    content = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    red = [name for name, is_red in content["cut"]["tests"].items() if is_red]
    assert red == ["tests/verification/test_kept.py::test_kept_counterexamples[numerical]"]
    assert content["tests"]["cut"] == len(content["cut"]["tests"]) > 2
    assert content["oracles"][0]["cut"] == {"random problems": {"cut": 50, "of": 50}}
