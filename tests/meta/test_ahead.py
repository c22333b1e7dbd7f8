"""Problems that are drawn while the one before is computed: as many, as right, as small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.strategies import SearchStrategy

from oracles.compare import Disagreement
from oracles.protocol import Raised
from oracles.registry import find
from oracles.worker import Connection
from reference import ConvGrads, ConvProblem
from tests.support.ahead import ask_all, draw
from tests.support.budget import Purse
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification, is_weak

SEED = "0 2 float32"


@pytest.fixture
def verification(tmp_path: Path) -> Iterator[Verification]:
    """One of all oracles that the tests name, each in a process of its own.

    Hypothesis remembers what fails in a test to the end of that test only.
    """
    before = settings.get_current_profile_name()
    settings.register_profile("forgets", database=InMemoryExampleDatabase(), deadline=None)
    settings.load_profile("forgets")
    names = ("right", "segfaults_on_stride_2", "refuses_dilation", "answers_the_problem_before")
    entries = [find(f"tests.support.zoo:{name}") for name in names]
    verification = Verification(
        entries, Tally(), in_process=False, time_limit=20, regressions=tmp_path
    )
    yield verification
    verification.close()
    settings.load_profile(before)


def chosen(verification: Verification, name: str) -> tuple[Connection, SearchStrategy[ConvProblem]]:
    """A member of the zoo and what it is asked."""
    oracle = verification.connection(f"tests.support.zoo:{name}")
    return oracle, problems(oracle.domain, 2, "float32", "integers")


def look(verification: Verification, name: str, count: int = 150) -> None:
    """Ask it ahead, as the tests of oracles do."""
    oracle, every = chosen(verification, name)
    verification.look(
        oracle.name,
        lambda count: ask_all(verification, oracle, every, SEED, count, Purse(600)),
        count,
        lambda _: None,
    )


def test_as_many_as_in_step(verification: Verification) -> None:
    """The same problems are asked and counted, once each, weak ones and regions too."""
    oracle, every = chosen(verification, "right")
    look(verification, "right")
    ahead = verification.tally.counts.pop(oracle.name)
    asked: list[ConvProblem] = []

    def in_step(problem: ConvProblem) -> None:
        asked.append(problem)
        verification._looking = True
        verification.verify(oracle, problem)

    draw(in_step, every, SEED, 150, [Phase.generate])
    count = verification.tally.counts[oracle.name]
    assert ahead.problems == count.problems == len(asked) > 150
    assert (ahead.weak, ahead.regions, ahead.agreed) == (count.weak, count.regions, count.agreed)
    assert 0 < ahead.weak < ahead.problems


@pytest.mark.parametrize(
    ("name", "kind"), [("segfaults_on_stride_2", "crashes"), ("refuses_dilation", "raises")]
)
def test_who_fails_is_named_and_made_small(name: str, kind: str, verification) -> None:
    """The problem that failed, not the one that was drawn meanwhile, is shrunk."""
    with pytest.raises(Disagreement) as caught:
        look(verification, name)
    verdict = caught.value.verdict
    assert verdict.kind == kind
    problem = verdict.problem
    assert max(problem.x.size, problem.w.size, problem.dy.size) <= 3
    params = problem.params
    assert sorted((*params.stride, *params.dilation)) == [1, 1, 1, 2]


def test_those_before_are_asked_once(verification: Verification, monkeypatch) -> None:
    """What passed before the failure is not asked again when the failure is made small."""
    name = chosen(verification, "segfaults_on_stride_2")[0].name
    right = chosen(verification, "right")[0]
    asked: list[ConvProblem] = []
    monkeypatch.setattr(right, "begin", asked.append)
    look(verification, "right")
    before = next(n for n, problem in enumerate(asked) if problem.params.stride[0] == 2)
    with pytest.raises(Disagreement):
        look(verification, "segfaults_on_stride_2")
    assert verification._seen_of(name).asked_before_failure == before + 1


def test_a_fault_of_two_problems(verification: Verification) -> None:
    """A stale answer is blamed on the problem before, which the evidence names."""
    with pytest.raises(Disagreement) as caught:
        look(verification, "answers_the_problem_before")
    assert len(caught.value.verdict.shown_by.before) == 1


def test_a_fault_that_shows_once(verification: Verification, monkeypatch) -> None:
    """One that is not there when its problem is drawn again is reported all the same."""
    oracle, every = chosen(verification, "right")
    answer, left = oracle.grads, 10

    def wrong_at_the_tenth(*args: Any, **kwargs: Any) -> ConvGrads:
        nonlocal left
        left -= 1
        grads = answer(*args, **kwargs)
        if left == 0:
            raise Raised("raises once")
        return grads

    monkeypatch.setattr(oracle, "grads", wrong_at_the_tenth)
    with pytest.raises(Disagreement) as caught:
        ask_all(verification, oracle, every, SEED, 150, Purse(600))
    assert "raises once" in caught.value.verdict.message


def test_only_weak_ones_are_remembered(verification: Verification) -> None:
    """Of another oracle, which was wrong on them: a right one is asked the usual problems then."""
    oracle, every = chosen(verification, "right")

    def fails_on_weak_ones(problem: ConvProblem) -> None:
        assert not is_weak(problem)

    with pytest.raises(AssertionError):
        draw(fails_on_weak_ones, every, SEED, 50, [Phase.generate, Phase.shrink])
    look(verification, "right", 50)
    count = verification.tally.counts[oracle.name]
    assert count.problems - count.weak == 50


def test_the_last_problem_counts(verification: Verification) -> None:
    """Nothing is left unanswered when all have been drawn."""
    oracle, every = chosen(verification, "right")
    ask_all(verification, oracle, every, SEED, 7, Purse(600))
    assert verification._pending is None
    assert verification.tally.count(oracle.name).problems >= 7


def test_what_hypothesis_remembers_comes_first(verification: Verification) -> None:
    """A failure of an earlier run is found again, though no such problem is drawn now."""
    oracle, every = chosen(verification, "segfaults_on_stride_2")
    for count in (150, 1):
        with pytest.raises(Disagreement):
            ask_all(verification, oracle, every, SEED, count, Purse(600))
