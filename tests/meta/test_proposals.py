"""A predicate is found again from random problems that were told apart by it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from oracles.compare import Disagreement, Verdict, reference_grads
from oracles.divergences import LEDGER, Divergence
from oracles.protocol import Box, Domain
from oracles.registry import Entry
from oracles.triage import neighbours
from reference import ConvParams, ConvProblem
from tests.support.classes import one_of_each, regions
from tests.support.proposals import Seen, propose
from tests.support.reporting import Tally
from tests.support.space import various
from tests.support.verification import Verification

MANY = 1300
SEEN = 1000  # of them, by a run before it proposes
CELLS = [(rank, dtype) for rank in (2, 3, 1) for dtype in ("float32", "float64", "float16")]


@functools.cache
def drawn(rank: int, count: int, dtype: str = "float32") -> list[ConvProblem]:
    """Random problems."""
    found: list[ConvProblem] = []
    domain = Domain(Box(ranks=(rank,), dtypes=(dtype,)))
    many = settings(max_examples=count, database=None, derandomize=True, phases=[Phase.generate])
    anything = various(domain, rank, dtype, "small")
    many(given(problem=anything)(lambda problem: found.append(problem)))()
    return found


def a_problem_of(record: Divergence) -> ConvProblem:
    """The smallest of those of regions, as if it had been shrunk, or else a random one."""
    for rank, dtype in CELLS:
        domain = Domain(Box(ranks=(rank,), dtypes=(dtype,)))
        classes = (of for of in regions(domain) if of.fill == "wide")
        for asked in (one_of_each(classes), drawn(rank, MANY, dtype)):
            if found := list(filter(record.applies, asked)):
                return min(found, key=lambda problem: problem.x.size + problem.w.size)
    pytest.fail(f"no problem matches {record.id}")


@pytest.mark.parametrize(
    ("guilty", "words"),
    [
        (lambda p: p.params.stride[0] == 2, "stride[-2] == 2"),
        (lambda p: p.x.shape[-1] < 4, "C <= 3"),
        (lambda p: p.x.shape[0] == 0, "N == 0"),
        (lambda p: p.b is not None, "bias"),
        (lambda p: p.params.groups == p.x.shape[-1] > 1, "groups kind == depthwise"),
        (lambda p: max(p.params.dilation) > 1 and p.b is None, "not (bias) and max(dilation) >= 2"),
    ],
)
def test_plain_predicates(guilty: object, words: str) -> None:
    """What a person would say, in a person's words."""
    asked = drawn(2, 400)
    failing = [problem for problem in asked if guilty(problem)]
    passing = [problem for problem in asked if not guilty(problem)]
    proposal = propose(failing, passing)
    assert set(map(str, proposal.conditions)) == set(words.split(" and "))
    assert str(proposal).startswith("in common: ")
    assert f"{len(failing)} failures, none of {len(passing)} passes" in str(proposal)


def small() -> Iterator[ConvProblem]:
    """All of 2-D with few cells, channels and examples, and no padding."""
    few = range(1, 4)
    for n, c, h, w, kh, kw in product(few, few, range(1, 5), range(1, 5), few, few):
        if kh <= h and kw <= w:
            shapes = (n, h, w, c), (kh, kw, c, 1), (n, h - kh + 1, w - kw + 1, 1)
            x, weights, dy = (np.ones(shape, np.float32) for shape in shapes)
            yield ConvProblem(x, weights, None, dy, ConvParams())


def parted(
    record: Divergence, asked: Iterable[ConvProblem]
) -> tuple[list[ConvProblem], list[ConvProblem]]:
    """Those that the record applies to, and the others."""
    failing: list[ConvProblem] = []
    passing: list[ConvProblem] = []
    for problem in asked:
        (failing if record.applies(problem) else passing).append(problem)
    return failing, passing


# Equal products of sizes, which no feature says.
BEYOND = {"autograd-equal-sizes"}


@pytest.mark.parametrize("record", LEDGER, ids=lambda record: record.id)
def test_records_of_the_ledger(record: Divergence) -> None:
    """From one problem of a record, and what its neighbours do, most of the predicate is found.

    Of a record beyond the features it is said how many passes have the same in common.
    """
    if record.id in BEYOND:
        failing, passing = parted(record, small())
        proposal = propose(failing, passing)
        assert all(map(proposal.applies, failing))
        assert f"{proposal.passing} of {len(passing)} passes" in str(proposal)
        assert proposal.passing > 0
        return
    first = a_problem_of(record)
    rank, dtype = first.params.rank, first.dtype.name
    failing, passing = parted(record, [*neighbours(first), *drawn(rank, MANY, dtype)[:SEEN]])
    proposal = propose([first, *failing], passing)
    assert all(map(proposal.applies, [first, *failing]))
    assert proposal.passing == 0
    fresh = drawn(rank, MANY, dtype)[SEEN:]
    wrongly = sum(proposal.applies(p) and not record.applies(p) for p in fresh)
    assert wrongly <= len(fresh) / 100


def test_what_cannot_be_told_apart() -> None:
    """It is said how many passes have the same in common."""
    asked = drawn(1, 50)
    proposal = propose(asked[:1], asked[:1])
    assert proposal.passing == 1
    assert "1 of 1 passes" in str(proposal)


def test_every_problem_fails() -> None:
    """Then there is nothing to say."""
    assert "nothing that the others have not" in str(propose(drawn(1, 20), []))


def test_zeros_tell_nothing() -> None:
    """A pass whose values are mostly zeros may hide the fault, and is not held against it."""
    one = np.ones((1, 1, 1), np.float32)
    params = ConvParams((2,), ((0, 0),), (1,))
    failed = Verdict("mine", ConvProblem(one, one, None, one, params), "crashes", "mine crashes")
    passed = Verdict("mine", ConvProblem(0 * one, one, None, one, params), "agrees")
    seen = Seen()
    seen.add(failed.problem, failed)
    seen.add(passed.problem, passed)
    assert seen.region(failed).passed == 0


def test_what_is_found_again_makes_its_region_wider() -> None:
    """One region a defect, not one a finding; another defect that looks alike has its own."""
    asked = drawn(2, 1000)
    dilated = [p for p in asked if max(p.params.dilation) > 1 and p.x.shape[0] > 0]
    halves = [[p for p in dilated if (p.x.shape[-1] < 8) is small] for small in (True, False)]
    empty = [p for p in asked if p.x.shape[0] == 0]
    seen = Seen()
    for problem in asked:
        if problem.x.shape[0] > 0 and max(problem.params.dilation) == 1:
            seen.add(problem, Verdict("mine", problem, "agrees"))
    for failing in (*halves, empty):
        for problem in failing:
            verdict = Verdict("mine", problem, "crashes", "mine crashes with SIGSEGV [...]")
            seen.add(problem, verdict)
        seen.leave_out(verdict)
        assert all(map(seen.left_out, failing))
    assert len(seen._left_out) == 2
    passing = [p for p in asked if p.x.shape[0] > 0 and max(p.params.dilation) == 1]
    assert sum(map(seen.left_out, passing)) < len(passing) / 100


def test_two_faults_of_one_search(tmp_path: Path) -> None:
    """Hypothesis may raise both at once: each is explained, and the next search has neither."""

    def grads(problem: ConvProblem) -> object:
        right = reference_grads(problem)
        if problem.params.stride[0] == 2:
            return replace(right, dx=right.dx + 1)
        return replace(right, dw=right.dw + 1) if problem.w.shape[-1] >= 3 else right

    domain = Domain(Box(ranks=(2,), dtypes=("float32",)))
    oracle = SimpleNamespace(distribution=None, domain=domain, grads=grads)
    verification = Verification(
        [Entry("mine", oracle, "")],
        Tally(),
        in_process=True,
        time_limit=30,
        regressions=tmp_path,
        keep_going=True,
    )
    connection, rounds = verification.connection("mine"), 0

    def run(count: int) -> None:
        nonlocal rounds
        rounds += 1
        failures = {}
        for problem in drawn(2, 300):
            try:
                verification.verify(connection, problem, is_enough=True)
            except Disagreement as failure:
                failures.setdefault(failure.verdict.results["dx"], failure)
        if failures:
            raise ExceptionGroup("several", list(failures.values()))

    def explore(count: int) -> None:
        for problem in drawn(2, 300):
            verification.verify(connection, problem)

    with pytest.raises(ExceptionGroup, match="2 findings"):
        verification.look("mine", run, 1e6, explore)
    assert rounds == 2
    found = sorted(finding.in_common for finding in verification.tally.findings)
    assert [words.partition(" (")[0] for words in found] == [
        "in common: F >= 3",
        "in common: stride[-2] == 2",
    ]
    verification.close()
