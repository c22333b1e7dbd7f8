"""The verification can fail: wrong backwards, planted by hand, are caught, named and shrunk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from oracles import compare
from oracles.compare import Disagreement, Verdict
from oracles.registry import connect, find
from reference import ConvGrads, ConvParams, ConvProblem
from reference.problem import Array
from tests.support import zoo
from tests.support.mutants import MUTANTS, oracle_name
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification
from tests.verification import test_laws

PLANTED = (
    "dx_kernel_not_flipped",
    "dw_stride_ignored",
    "padding_lo_and_hi_exchanged",
    "dx_group_offset",
    "db_first_sample_only",
)


def verdict_on(name: str, rank: int) -> Verdict:
    """The verdict of the real verification on a mutant, shrunk."""
    entry = find(oracle_name(name))
    verification = Verification(
        [entry, find("numerical")], Tally(), in_process=True, time_limit=30, regressions=Path()
    )
    oracle = verification.connection(entry.name)

    @settings(database=None, derandomize=True, max_examples=1000, deadline=None)
    @given(problem=problems(oracle.domain, rank, "float32"))
    def agrees(problem: ConvProblem) -> None:
        verification.verify(oracle, problem)

    with pytest.raises(Disagreement) as caught:
        agrees()
    return caught.value.verdict


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", PLANTED)
def test_caught_named_and_shrunk(name: str, rank: int) -> None:
    """The failure blames the mutant, in the right gradient, with arrays of a few elements."""
    verdict = verdict_on(name, rank)
    starts = tuple(f"{oracle_name(name)} {gradient}[" for gradient in MUTANTS[name].gradients)
    assert verdict.message.startswith(starts)
    assert "reference, numerical, exact agree" in verdict.message
    problem = verdict.problem
    assert max(problem.x.size, problem.w.size, problem.dy.size) <= 9


def test_a_wrong_reference_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reference itself is wrong, it is named, not the oracle that found it out."""
    monkeypatch.setattr(compare, "reference_grads", MUTANTS["dx_group_offset"].grads)
    right = connect(find("numerical"))

    @given(problem=problems(right.domain, 1, "float32"))
    def agrees(problem: ConvProblem) -> None:
        compare.judge(right, problem).check()

    with pytest.raises(Disagreement, match=r"^reference dx\[.*numerical, exact agree"):
        agrees()


def not_linear(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX without its sign."""
    return replace(right, dx=np.abs(right.dx))


def never_zero(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX is one more everywhere."""
    return replace(right, dx=right.dx + 1)


def wrong_if_dilated(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX is one more everywhere if there is dilation."""
    return never_zero(problem, right) if set(problem.params.dilation) != {1} else right


def padding_multiplied(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DW has NaN where an Inf or NaN in dy meets padding."""
    return replace(right, dw=zoo.multiplies_padding.grads(problem).dw)


@pytest.mark.parametrize(
    ("law", "spoil"),
    [
        (test_laws.test_conv_equals_naive, MUTANTS["dw_stride_ignored"].spoil),
        (test_laws.test_conv_equals_naive_on_special_values, padding_multiplied),
        (
            test_laws.test_conv_equals_rational_arithmetic,
            MUTANTS["padding_lo_and_hi_exchanged"].spoil,
        ),
        (test_laws.test_adjoint_identities, MUTANTS["dx_kernel_not_flipped"].spoil),
        (test_laws.test_linear_in_dy, not_linear),
        (test_laws.test_zero_dy_gives_zero, never_zero),
        (test_laws.test_batch_is_additive, MUTANTS["db_first_sample_only"].spoil),
        (test_laws.test_groups_are_a_block_diagonal_kernel, MUTANTS["dx_group_offset"].spoil),
        (test_laws.test_dilation_is_a_zero_stuffed_kernel, wrong_if_dilated),
        (
            test_laws.test_padding_is_zeros_around_the_input,
            MUTANTS["padding_lo_and_hi_exchanged"].spoil,
        ),
        (test_laws.test_translation, MUTANTS["dw_stride_ignored"].spoil),
        (test_laws.test_input_that_no_window_reaches_has_no_gradient, never_zero),
    ],
    ids=lambda value: value.__name__,
)
def test_every_law_can_fail(
    law: Callable[..., None],
    spoil: Callable[[ConvProblem, ConvGrads], ConvGrads],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backward with one mistake breaks the law that speaks of it."""

    def wrong_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> ConvGrads:
        problem = ConvProblem(x, w, np.zeros_like(w, shape=w.shape[-1:]), dy, params)
        return spoil(problem, compare.reference_grads(problem))

    monkeypatch.setattr(test_laws, "conv_backward", wrong_backward)
    arguments = {"rank": 2, "dtype": "float32"}
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        law(**{name: arguments[name] for name in inspect.signature(law).parameters})
    failures = getattr(caught.value, "exceptions", [caught.value])
    assert all(isinstance(failure, AssertionError) for failure in failures)


def test_every_law_is_shown_to_fail() -> None:
    """No law is missing above."""
    laws = {value for name, value in vars(test_laws).items() if name.startswith("test_")}
    [marks] = [m for m in test_every_law_can_fail.pytestmark if m.name == "parametrize"]
    assert laws == {law for law, _ in marks.args[1]}
