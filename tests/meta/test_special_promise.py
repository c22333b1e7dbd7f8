"""An oracle that promises the rule for NaN and Inf is held to it, and breaking it is seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

from oracles.compare import Disagreement
from oracles.protocol import Box, Domain
from oracles.registry import find
from reference import ConvProblem
from tests.meta.test_face import run_pytest
from tests.support import zoo
from tests.support.reporting import Tally
from tests.support.strategies import Fill, problems, special_problems
from tests.support.verification import Verification
from tests.verification.test_special_values import with_special_values

GATE = "tests/verification/test_special_values.py::test_special_values"
TOO_LARGE = "tests/verification/test_special_values.py::test_sums_that_are_too_large"
BREAKING = {  # the rule, and in which results
    "pads_with_zeros": "dw|y",
    "swallows_nan": "dw",
    "clips_inf": "dx",
    "stuffs_zeros": "dx",
    "skips_zeros": "dx",
}
each_rank = pytest.mark.parametrize("rank", [1, 2, 3])
each_fill = pytest.mark.parametrize("fill", ["integers", "reals"])


def verify(name: str, given_problems: SearchStrategy[ConvProblem], count: int) -> None:
    """What the gate does, without shrinking."""
    entry = find(f"tests.support.zoo:{name}")
    verification = Verification(
        [entry], Tally(), in_process=True, time_limit=30, regressions=Path()
    )
    oracle = verification.connection(entry.name)

    @settings(
        database=None,
        derandomize=True,
        max_examples=count,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],  # loops are
        verbosity=Verbosity.quiet,
    )
    @given(problem=given_problems)
    def agrees(problem: ConvProblem) -> None:
        verification.verify(oracle, problem)

    agrees()


def test_every_promise_is_listed() -> None:
    """None is made and then forgotten."""
    promising = {name for name, value in vars(zoo).items() if isinstance(value, zoo.Promising)}
    assert promising == {*BREAKING, "keeps_to_the_rule"}


@each_rank
@pytest.mark.parametrize("name", BREAKING)
def test_who_breaks_the_rule_is_caught(name: str, rank: int) -> None:
    """In the result that is wrong, within as many problems as a run of the profile ci has."""
    with pytest.raises(Disagreement, match=rf"zoo:{name} ({BREAKING[name]})\["):
        verify(name, with_special_values(zoo.Promising.domain, rank, "float32"), 250)


@each_fill
@each_rank
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_who_keeps_to_the_rule_is_not(dtype: str, rank: int, fill: Fill) -> None:
    """Plain loops agree, with every rounding that they make."""
    verify("keeps_to_the_rule", special_problems(zoo.Promising.domain, rank, dtype, fill), 25)


def test_the_gate_is_red_with_the_value(tmp_path: Path) -> None:
    """The problem is shrunk, named, kept, and shows it again."""
    name = "tests.support.zoo:swallows_nan"
    options = ("--oracle", name, f"--regressions={tmp_path}")
    code, output = run_pytest(*options, GATE, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"{name} dw[0, 0, 0] = 0, but should be nan (allowed 0; 1 of 1 elements" in output
    [kept] = tmp_path.glob("*.json")
    code, output = run_pytest(*options, f"--replay={kept}", "tests/verification")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "but should be nan" in output


def test_who_stops_at_the_largest_number_is_caught(tmp_path: Path) -> None:
    """Without NaN or Inf in the data, and whether anything is promised of these or not."""
    name = "tests.support.zoo:clips_inf"
    options = ("--oracle", name, f"--regressions={tmp_path}", "-k", "1d-float32")
    code, output = run_pytest(*options, TOO_LARGE)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"{name} dx[0, 0, 0] = " in output
    assert re.search(r"but should be -?inf, -?[\d.]+e\+38 being too large for float32", output)


def test_the_gate_is_green() -> None:
    """In a process of its own, too."""
    name = "tests.support.zoo:keeps_to_the_rule"
    code, output = run_pytest("--oracle", name, GATE, "-k", "1d")
    assert code == pytest.ExitCode.OK
    assert "2 passed, 4 deselected" in output


def test_only_promises_are_held() -> None:
    """Who has made none is not asked."""
    code, output = run_pytest("--oracle", "tests.support.zoo:right", GATE)
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "6 deselected" in output


def test_a_transform_cannot_promise() -> None:
    """It mixes a whole sample."""
    box = Box((1,), ("float32",))
    with pytest.raises(ValueError, match="special_values=True, exact=False: a transform spreads"):
        Domain(box, exact=False, special_values=True)


@each_rank
@pytest.mark.parametrize("name", BREAKING)
def test_of_finite_numbers_nothing_is_wrong(name: str, rank: int) -> None:
    """What is planted shows by NaN and Inf alone: no other check would have seen it."""
    verify(name, problems(zoo.Promising.domain, rank, "float32", "integers"), 50)
