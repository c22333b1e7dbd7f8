"""Domains are honest: what lies outside one is refused with a clear error, never answered."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given

from oracles.compare import Verdict, judge
from oracles.protocol import Box, Domain
from oracles.registry import connect, find
from oracles.worker import Connection
from reference import ConvParams, ConvProblem
from tests.support.strategies import problems
from tests.support.verification import Verification

# What each framework says when it refuses. A new text is looked at before it is added: it must tell
# a user what is not supported.
REFUSALS = {
    "pytorch": (r"only Tensors of floating point dtype can require gradients",),
    "tensorflow": (
        r"`strides > 1` not supported in conjunction with `dilation_rate > 1`",
        r"Gradients for grouped convolutions are not supported on CPU",
        r"input and filter must have the same depth: \d+ vs \d+",
        r"Number of channels in filter \(\d+\) must match last dimension of input \(\d+\)",
        r"input and filter_sizes must have the same number of channels",
        r"GradientTape gives no gradient for dtype int32",
    ),
}


def check_refused(oracle: Connection, verdict: Verdict) -> None:
    """Assert that the oracle has raised an error that tells why."""
    if verdict.kind == "agrees":
        pytest.fail(f"{oracle.name} is right outside its domain: widen it; {verdict.problem!r}")
    assert verdict.kind == "raises", verdict.message
    texts = REFUSALS.get(oracle.name, (".",))
    assert any(re.search(text, verdict.message) for text in texts), verdict.message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_refused_outside_the_domain(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """Of random problems of any kind, those outside the oracle's domain are refused."""
    sizes = [box.max_elements for box in oracle.domain.boxes if box.max_elements is not None]
    anything = Domain(Box(ranks=(rank,), dtypes=(dtype,), max_elements=min(sizes, default=None)))

    @given(problem=problems(anything, rank, dtype))
    def refuses(problem: ConvProblem) -> None:
        if not oracle.domain.accepts(problem) and not verification.known(oracle.name, problem):
            check_refused(oracle, judge(oracle, problem))

    refuses()


def test_integers_are_refused(oracle: Connection) -> None:
    """A dtype that has no gradient is refused, except by our own arithmetic."""
    arrays = {name: np.ones((1, 1, 1, 1), np.int32) for name in ("x", "w", "dy")}
    problem = ConvProblem(**arrays, b=None, params=ConvParams())
    assert oracle.domain.refusal(problem) == "dtype int32"
    if oracle.name in REFUSALS:
        check_refused(oracle, judge(oracle, problem))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tests.support.zoo:right", "is right outside its domain: widen it"),
        ("tests.support.mutants:group_offset", r"group_offset dx\[0, 0, 0, 0\] = 2, but should"),
    ],
)
def test_the_check_can_fail(name: str, words: str) -> None:
    """An answer, right or wrong, is no refusal."""
    oracle = connect(find(name), in_process=True)
    x, w = np.float32([[[[1, 2]]]]), np.float32([[[[1, 1]]]])
    problem = ConvProblem(x, w, None, x, ConvParams(groups=2))
    with pytest.raises((AssertionError, pytest.fail.Exception), match=words):
        check_refused(oracle, judge(oracle, problem))
