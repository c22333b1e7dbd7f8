"""The power of a run is what it says: the wrong are caught, the right are not, a loss is red."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oracles.compare import Verdict
from oracles.protocol import Box, Domain
from oracles.registry import connect, find
from reference import ConvProblem
from tests.meta.test_face import EXACT, run_pytest
from tests.support.mutants import ALLOWED, MUTANTS, oracle_name
from tests.support.power import Catch, catch, hunt, sentence, stream
from tests.support.regressions import load
from tests.support.reporting import Tally, coverage_lines, region_lines
from tests.verification import test_power

SOME = {
    "dx_dilation_ignored": "three classes",
    "db_first_sample_only": "three classes",
    "gy_modified_in_place": "three classes",
    "dw_x_in_tf32": "three classes",
    "sigfpe_on_zero": "region: empty batch",
    "dw_nan_swallowed": "region: ",
}


def test_who_is_wrong_is_caught() -> None:
    """By the check that was meant for it."""
    found = hunt({name: MUTANTS[name] for name in SOME}, seed=3, count=2)
    assert found.keys() == SOME.keys()
    for name, caught in found.items():
        assert caught.check.startswith(SOME[name])
        assert caught.verdict.kind != "agrees"
        assert 0 < caught.problems < 1000
        assert caught.seconds > 0


def test_who_is_right_is_not_caught() -> None:
    """However unlike the reference it is; here in one rank and dtype, to the stream's end."""
    plane = Domain(Box(ranks=(2,), dtypes=("float32",)))
    right = {name: connect(find(oracle_name(name))) for name in ALLOWED}
    assert catch(right, plane, seed=3, count=20) == {}


def test_a_seed_gives_the_same_stream() -> None:
    """The same problems in the same order; another seed, another order."""
    domain = Domain(Box(ranks=(1,), dtypes=("float32",), groups=("one",)))

    def asked(seed: int) -> list[str]:
        found: list[str] = []

        def ask(check: str, problem: ConvProblem, is_last: bool) -> bool:
            found.append(f"{check} {problem!r}")
            return True

        stream(domain, seed, 3, ask)
        return found

    first = asked(1)
    assert first == asked(1)
    assert first != asked(2)
    checks = [words.split(" ConvProblem")[0] for words in first]
    kinds = list(dict.fromkeys(check.partition(":")[0] for check in checks))
    assert kinds == ["three classes", "region", "random integers", "random reals"]


def test_a_loss_of_power_is_red() -> None:
    """A fault that is missed is named; so is the number, if mutants have been taken out."""
    caught = {name: Catch("exact", 1, 0.1, Verdict("", None, "differs")) for name in MUTANTS}
    test_power.check_power(caught, MUTANTS)
    missed = dict(caught)
    del missed["dx_dilation_ignored"]
    with pytest.raises(AssertionError, match="dx_dilation_ignored: The taps lie side by side"):
        test_power.check_power(missed, MUTANTS)
    fewer = {name: MUTANTS[name] for name in missed}
    with pytest.raises(AssertionError, match=f"{len(missed)} planted .* it has been {len(caught)}"):
        test_power.check_power(missed, fewer)


def test_the_sentence() -> None:
    """How many of how many, and which took the most problems."""
    verdict = Verdict("", None, "differs")
    found = {"easy": Catch("exact", 1, 0.1, verdict), "hard": Catch("exact", 1212, 9.0, verdict)}
    assert sentence(found, 3) == (
        "this run would have caught 2 of 3 planted faults; weakest: hard after 1,212 problems"
    )
    assert sentence({}, 3) == "this run would have caught 0 of 3 planted faults"


def test_a_run_ends_with_it() -> None:
    """The sentence is what the test found, and adds up over processes."""
    tally = Tally()
    tally.power = "this run would have caught 2 of 3"
    added = Tally()
    added.add_json(tally.to_json())
    added.add_json(Tally().to_json())
    assert added.power == tally.power


def test_coverage_lines() -> None:
    """Per cent are rounded down, what the ledger keeps away is said."""
    tally = Tally()
    tally.add_coverage("numerical", met=9_995, valid=10_000, missing=2)
    tally.add_region("numerical", "depthwise", 3)
    tally.add_region("numerical", "no bias", 0)
    lines = []
    for all_regions in (True, False):
        tally.count("numerical").all_regions = all_regions
        added = Tally()
        added.add_json(tally.to_json())
        lines += coverage_lines([find("numerical")], added)
    met = "numerical: 9,995 of 10,000 three classes met (99.9 %), 3 are known to the ledger; "
    fewest = 'the fewest problems in "no bias" (0)'
    assert lines == [
        f"{met}1 of 2 regions, {fewest}",
        f"{met}1 regions, not all were asked for, {fewest}",
    ]


def test_regions_that_nobody_asked_for() -> None:
    """Where test_every_region is left out, what was met by chance is not called all."""
    code, output = run_pytest("--oracle", "numerical", EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.OK
    assert re.search(r"numerical: \d+ regions, not all were asked for, ", output)


def test_regions_are_counted_by_oracle() -> None:
    """As a table, if Hypothesis' statistics are asked for."""
    tally = Tally()
    tally.add_region("numerical", "bias", 1234)
    tally.add_region("pytorch", "no bias", 5)
    assert region_lines([find("numerical"), find("pytorch")], tally) == [
        "problems in region  numerical  pytorch",
        "bias                1,234      -",
        "no bias             -          5",
    ]
    tests = "tests/verification/test_coverage.py::test_every_three_classes_meet"
    _, output = run_pytest("--oracle", "numerical", tests, "--hypothesis-show-statistics")
    assert re.search(r"^problems in region +numerical$", output, re.MULTILINE)
    assert re.search(r"^depthwise, several filters +\d+$", output, re.MULTILINE)


def test_a_failure_of_a_class_is_made_small_and_names_its_region(tmp_path: Path) -> None:
    """Whatever the problem was that showed it."""
    name = oracle_name("dw_dilation_of_one_tap_shifts")
    tests = "tests/verification/test_coverage.py::test_every_three_classes_meet"
    code, output = run_pytest("--oracle", name, tests, f"--regressions={tmp_path}")
    assert code == pytest.ExitCode.TESTS_FAILED
    [line] = [line for line in output.splitlines() if line.strip().startswith("regions: ")]
    assert "dilation of one tap" in line
    [path] = list(tmp_path.glob("*.json"))
    problem = load(path).problem
    assert problem.x.size + problem.w.size + problem.dy.size <= 12
