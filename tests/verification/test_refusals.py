"""Domains are honest: what lies outside one is refused with a clear error, never answered."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given

from oracles import divergences
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
# What is taken beyond the domain on processors with an instruction set: a domain is what all take.
# oneDNN has kernels for float16 there, with groups and dilation.
BEYOND = {("tensorflow", "float16"): "avx512_fp16"}


GROUPED = ConvProblem(
    np.float32([[[[1, 2]]]]),
    np.float32([[[[1, 1]]]]),
    None,
    np.float32([[[[1, 2]]]]),
    ConvParams(groups=2),
)


def check_refused(oracle: Connection, verdict: Verdict) -> None:
    """Assert that the oracle has raised an error that tells why.

    One from outside the tree may also be right: its domain says what is to be verified. So may one
    on a processor that takes more.
    """
    texts = REFUSALS.get(oracle.name)
    needed = BEYOND.get((oracle.name, verdict.problem.dtype.name))
    if verdict.kind == "agrees" and (texts is None or needed in divergences.cpu_flags()):
        return
    if verdict.kind == "agrees":
        pytest.fail(f"{oracle.name} is right outside its domain: widen it; {verdict.problem!r}")
    assert verdict.kind == "raises", verdict.message
    assert any(re.search(text, verdict.message) for text in texts or (".",)), verdict.message


def test_refused_outside_the_domain(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """Of problems of the oracle's ranks and dtypes, those outside its domain are refused."""
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


@pytest.mark.parametrize("texts", [None, ("no such text",)])
def test_a_wrong_answer_is_no_refusal(
    texts: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle that computes something else outside its domain is caught."""
    name = "tests.support.mutants.dx:dx_group_offset"
    if texts is not None:
        monkeypatch.setitem(REFUSALS, name, texts)
    oracle = connect(find(name), in_process=True)
    with pytest.raises(AssertionError, match=r"group_offset dx\[0, 0, 0, 0\] = 2, but should"):
        check_refused(oracle, judge(oracle, GROUPED))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tests.support.zoo:right", "is right outside its domain: widen it"),
        ("tests.support.zoo:raises", "raises NotImplementedError: no kernel for this"),
    ],
)
def test_in_the_tree_only_known_refusals_pass(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right answer means that the domain is too narrow, an unknown text is looked at."""
    oracle = connect(find(name), in_process=True)
    check_refused(oracle, judge(oracle, GROUPED))
    monkeypatch.setitem(REFUSALS, name, ("no such text",))
    with pytest.raises((AssertionError, pytest.fail.Exception), match=words):
        check_refused(oracle, judge(oracle, GROUPED))


def test_a_processor_may_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the instruction set a right answer will do, without it the domain is too narrow."""
    oracle = connect(find("tests.support.zoo:right"), in_process=True)
    monkeypatch.setitem(REFUSALS, oracle.name, ("no such text",))
    monkeypatch.setitem(BEYOND, (oracle.name, "float32"), "avx512_fp16")
    monkeypatch.setattr(divergences, "cpu_flags", lambda: frozenset({"avx512_fp16"}))
    check_refused(oracle, judge(oracle, GROUPED))
    monkeypatch.setattr(divergences, "cpu_flags", frozenset)
    with pytest.raises(pytest.fail.Exception, match="is right outside its domain: widen it"):
        check_refused(oracle, judge(oracle, GROUPED))
