"""Small losses of precision are caught, each by the check that can see it; honest code is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, Verbosity, given, settings

from oracles.compare import Disagreement, judge
from oracles.registry import find
from oracles.worker import Connection
from reference import ConvProblem
from tests.support import lossy, sizes
from tests.support.reporting import Tally
from tests.support.strategies import Fill, problems
from tests.support.verification import Verification

SIZES = ("small", "medium")  # large: tests.benchmarks.precision_power
MOST = 250  # problems, as many as in CI
# Small integers are exact in these formats and in two halves of them: that is what wide ones are
# for. float16 holds the sums of some.
TOO_SMALL = {
    "tf32_inputs",
    "bfloat16_inputs",
    "split_bfloat16",
    "split_tf32",
    "float64_in_float32",
    "float16_sums",
}

each_fault = pytest.mark.parametrize("name", lossy.FAULTS)
each_right = pytest.mark.parametrize("name", [*lossy.RIGHT, *lossy.PROMISED])
each_size = pytest.mark.parametrize("size", SIZES)


def connected(name: str) -> tuple[Verification, Connection]:
    """The real verification, and the oracle in it."""
    entry = find(f"tests.support.lossy:{name}")
    verification = Verification(
        [entry], Tally(), in_process=True, time_limit=30, regressions=Path()
    )
    return verification, verification.connection(entry.name)


def verify(name: str, fill: Fill, count: int) -> None:
    """The property test, without shrinking, on `count` problems of each rank and dtype."""
    verification, oracle = connected(name)
    for rank, dtype in oracle.domain.cells():

        @settings(
            database=None,
            derandomize=True,
            max_examples=count,
            deadline=None,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
        )
        @given(problem=problems(oracle.domain, rank, dtype, fill))
        def agrees(problem: ConvProblem) -> None:
            verification.verify(oracle, problem)

        agrees()


def kinds(name: str, size: str, fill: str) -> Iterator[str]:
    """What the verdicts on the problems of one size are."""
    _, oracle = connected(name)
    exact, dtype = oracle.domain.exact, getattr(lossy, name).dtype
    return (
        judge(oracle, problem).kind for problem in sizes.problems(fill, size, dtype, exact=exact)
    )


def test_every_oracle_is_listed() -> None:
    """No fault is written and then forgotten."""
    listed = {*lossy.FAULTS, *lossy.RIGHT, *lossy.PROMISED, *lossy.BROKEN}
    assert {key for key, value in vars(lossy).items() if isinstance(value, lossy.Lossy)} == listed


@pytest.mark.parametrize("fill", ["integers", "reals"])
@each_fault
def test_caught_on_random_problems(name: str, fill: Fill) -> None:
    """Both of the property tests find each fault."""
    with pytest.raises(Disagreement, match=f"lossy:{name} d[xwb]\\["):
        verify(name, fill, MOST)


@each_size
@each_fault
def test_wide_integers_show_it(name: str, size: str) -> None:
    """A layer of any size shows each fault on wide integers."""
    assert "differs" in kinds(name, size, "wide integers")


@each_size
@each_fault
def test_reals_show_it(name: str, size: str) -> None:
    """And on reals, but for what is smaller than the errors of long sums in float32 may be."""
    assert ("differs" in kinds(name, size, "reals")) == (name != "split_tf32")


@each_size
@each_fault
def test_what_small_integers_show(name: str, size: str) -> None:
    """They show wrong numbers and transforms, but no narrow format that holds them."""
    if name != "float16_sums" or size == "small":
        assert [*kinds(name, size, "small integers")] == [
            "agrees" if name in TOO_SMALL else "differs"
        ]


@each_fault
def test_caught_by_the_probe(name: str) -> None:
    """The bits that are carried are too few."""
    verification, oracle = connected(name)
    for rank, dtype in oracle.domain.cells():
        with pytest.raises(Disagreement, match=r"promises float\d\d, \d\d bits, but its d[xw]"):
            verification.probe(oracle, rank, dtype)


def test_more_is_lost_than_was_promised() -> None:
    """TF32 is promised, bfloat16 is what there is: small integers alone do not show it."""
    verification, oracle = connected("bfloat16_as_tf32")
    for rank, dtype in oracle.domain.cells():
        with pytest.raises(Disagreement, match=r"float32, 10 bits, but its d[xw] carries 8 \["):
            verification.probe(oracle, rank, dtype)
    with pytest.raises(Disagreement, match=r"lossy:bfloat16_as_tf32 d[xw]\["):
        verify("bfloat16_as_tf32", "reals", MOST)
    assert {*kinds("bfloat16_as_tf32", "small", "small integers")} == {"agrees"}


@pytest.mark.parametrize(
    ("name", "bits"), [("bfloat16_inputs", 8), ("tf32_inputs", 11), ("split_bfloat16", 17)]
)
def test_the_probe_tells_how_many_bits_there_are(name: str, bits: int) -> None:
    """The least of all problems, which is what the narrower format has."""
    verification, oracle = connected(name)
    for rank, dtype in oracle.domain.cells():
        with pytest.raises(Disagreement, match=rf"promises float32, 24 bits, .* carries {bits} \["):
            verification.probe(oracle, rank, dtype)


@pytest.mark.parametrize("fill", ["integers", "reals"])
@each_right
def test_no_alarm_on_random_problems(name: str, fill: Fill) -> None:
    """Honest code agrees: exactly, or within the bound of what says that it is a transform."""
    verify(name, fill, 25)


@pytest.mark.parametrize("fill", sizes.FILLS)
@each_size
@each_right
def test_no_alarm_at_a_size(name: str, size: str, fill: str) -> None:
    """Nor does the size matter."""
    assert {*kinds(name, size, fill)} == {"agrees"}


@each_right
def test_no_alarm_by_the_probe(name: str) -> None:
    """All bits are carried, or nobody has promised them."""
    verification, oracle = connected(name)
    for rank, dtype in oracle.domain.cells():
        verification.probe(oracle, rank, dtype)
