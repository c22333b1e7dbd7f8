"""Each check of the contract has a bad citizen that fails it, and a good one that passes."""

from __future__ import annotations

import re

import pytest
from hypothesis import Phase, given, settings

from oracles.registry import connect, find
from reference import ConvProblem
from tests.support.conformance import CHECKS, Broken, concerns, problems_for

CITIZENS = {
    "check_accepts_its_domain": (
        "refuses_dilation",
        r"refuses what its domain has: raises NotImplementedError: no dilation \[",
    ),
    "check_keeps_form": ("answers_float64", r"dx\.dtype = float64, not float32 \["),
    "check_keeps_its_inputs": ("writes_to_its_inputs", r"writes to its input x \["),
    "check_same_answer_twice": ("wrong_every_second_time", "dx is another one when asked again"),
    "check_zero_dy_gives_zero": ("adds_one", r"dx\[0, 0, 0\] = 1.0 for a dy of zeros \["),
    "check_linear_in_dy": (
        "clips",
        r"is not linear: dx\[.*\] = -2.0 for -2 dy, but should be -",
    ),
    "check_refuses_outside": (
        "takes_dilation_for_one",
        r"outside its domain d[xw]\[.* but should be .* dilation \(",
    ),
}


def run(check: str, citizen: str) -> None:
    """Make the check on random problems, in this process."""
    oracle = connect(find(f"tests.support.zoo:{citizen}"), in_process=True)

    @settings(max_examples=100, database=None, derandomize=True, phases=[Phase.generate])
    @given(problem=problems_for(check, oracle.domain))
    def keeps(problem: ConvProblem) -> None:
        if concerns(check, oracle.domain, problem):
            CHECKS[check](oracle, problem)

    keeps()


@pytest.mark.parametrize("check", CHECKS)
def test_a_bad_citizen_fails(check: str) -> None:
    """The promise is broken, and the sentence says how."""
    citizen, words = CITIZENS[check]
    with pytest.raises(Broken) as caught:
        run(check, citizen)
    assert str(caught.value).startswith(f"tests.support.zoo:{citizen} ")
    assert re.search(words, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_one_passes(check: str) -> None:
    """Who is right keeps every promise; so does who refuses what lies outside its domain."""
    run(check, "right")
    run(check, "refuses_dilation" if check == "check_refuses_outside" else "right")
