"""The search for the guilty problem: found among many, made small, given up where nothing shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from oracles import triage
from oracles.protocol import Crashed, Hung
from oracles.triage import Shown, explain, neighbours, reduce, smaller_problems
from reference import ConvParams, ConvProblem
from reference.layout import strides_of


def numbered(number: int) -> ConvProblem:
    """A problem of one element each, told from the others by its x."""
    one = np.ones((1, 1, 1), np.float32)
    return ConvProblem(number * one, one, None, one, ConvParams((1,), ((0, 0),), (1,)))


def number_of(problem: ConvProblem) -> int:
    """The number of a numbered problem."""
    return int(problem.x.flat[0])


class Process:
    """A make-believe process: it dies `delay` problems after it was asked for all of `guilty`."""

    def __init__(self, guilty: Sequence[int], delay: int, runs_that_show: int = 10**6) -> None:
        self.guilty = list(guilty)
        self.delay = delay
        self.left = runs_that_show
        self.asked = 0

    def __call__(self, problems: Sequence[ConvProblem]) -> Shown | None:
        """Ask for the problems in turn."""
        self.asked += 1
        if self.left == 0:
            return None
        waiting, since = list(self.guilty), None
        for index, problem in enumerate(problems):
            if since is not None and index - since == self.delay:
                self.left -= 1
                return Shown(index, Crashed("crashes"))
            if waiting and number_of(problem) == waiting[0]:
                waiting.pop(0)
                since = index if not waiting else None
        return None


HISTORY = [numbered(number) for number in range(1, 1001)]
LAST = numbered(2000)


@pytest.mark.parametrize("delay", [1, 50])
@pytest.mark.parametrize("guilty", [1, 500, 1000])
def test_one_guilty_problem(guilty: int, delay: int) -> None:
    """It alone is blamed, asked again and again; a thousand problems take some 25 processes."""
    process = Process([guilty], delay)
    found = explain(process, LAST, HISTORY, Crashed("crashes"), lambda _: False)
    assert found is not None
    assert number_of(found.evidence.problem) == guilty
    assert found.evidence.before == ()
    assert found.evidence.asks == delay + 1
    assert found.evidence.seen_at is LAST
    assert process.asked < 30


@pytest.mark.parametrize("guilty", [[3, 700], [3, 4, 900]])
def test_several_guilty_problems(guilty: list[int]) -> None:
    """They are all named, in their order, and no other is; the crash comes at the one after."""
    found = explain(Process(guilty, 1), LAST, HISTORY, Crashed("crashes"), lambda _: False)
    assert found is not None
    evidence = found.evidence
    assert [number_of(problem) for problem in evidence.before] == guilty
    assert str(found) == f"crashes, after {len(guilty)} other problems in the same process"


def test_the_problem_itself() -> None:
    """One that crashes alone needs no history."""
    found = explain(Process([2000], 3), LAST, HISTORY, Crashed("crashes"))
    assert found is not None
    assert str(found) == (
        "crashes, again in fresh process 1 of 3, when asked 4 times in one process"
    )


@pytest.mark.parametrize("history", [HISTORY, []])
def test_what_never_shows_again(history: list[ConvProblem]) -> None:
    """No one is blamed."""
    assert explain(Process([5], 1, 0), LAST, history, Crashed("crashes")) is None


def test_what_shows_only_now_and_then() -> None:
    """After it has shown once more, what is known is said, though it stops to show."""
    found = explain(Process([5, 6], 1, 1), LAST, HISTORY[:20], Crashed("crashes"))
    assert found is not None
    assert 5 in [number_of(problem) for problem in found.evidence.before]


def test_the_search_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time, the whole history is what is known."""
    monkeypatch.setattr(triage, "SECONDS", 0.0)
    found = explain(Process([5], 1), LAST, HISTORY, Crashed("crashes"))
    assert found is None
    monkeypatch.setattr(triage, "SECONDS", 100.0)
    clock = iter([0.0, 1.0, *[200.0] * 100])
    monkeypatch.setattr(triage.time, "monotonic", lambda: next(clock))
    found = explain(Process([5], 1), LAST, HISTORY[:50], Crashed("crashes"))
    assert found is not None
    assert 1 <= len(found.evidence.before) <= 50


def test_a_hang_is_tried_once() -> None:
    """Each try takes the whole time limit."""
    process = Process([5], 1, 0)
    assert explain(process, LAST, [], Hung("hangs")) is None
    assert process.asked == 1


def test_reduce() -> None:
    """The smallest problem with what matters: here stride 2 and a kernel wider than 1."""
    x = np.arange(2 * 9 * 8 * 4, dtype=np.float32).reshape(2, 9, 8, 4)
    params = ConvParams((2, 3), ((1, 2), (0, 1)), (2, 1), groups=2)
    problem = ConvProblem(
        x,
        np.ones((3, 2, 2, 6), np.float32),
        np.ones(6, np.float32),
        np.ones((2, 4, 3, 6), np.float32),
        params,
    )
    [small] = reduce([problem], lambda p: p[0].params.stride[0] == 2 and p[0].kernel[1] > 1)
    assert (small.params.stride, small.params.dilation) == ((2, 1), (1, 1))
    assert small.kernel == (1, 2)
    assert (small.x.size + sum(map(sum, small.params.padding)), small.dy.size) == (2, 1)
    assert small.b is None
    assert not small.x.any()
    assert not small.w.any()
    assert not small.dy.any()


def test_reduce_keeps_what_a_fault_needs() -> None:
    """A layout of x, and a number in the last corner; what it does without becomes plain."""
    x = np.zeros((3, 9, 4), np.float32)
    x[2, 8, 3] = np.inf
    w, dy = np.ones((2, 4, 3), np.float32), np.ones((3, 8, 3), np.float32)
    params = ConvParams((1,), ((0, 0),), (1,))
    problem = ConvProblem(x[:, ::-1], np.asfortranarray(w), None, dy, params)
    problem.x[:, 0, 0] = -np.inf

    def shows(trial: list[ConvProblem]) -> bool:
        x = trial[0].x
        return min(strides_of(x) or (0,)) < 0 and np.isposinf(x).any() and trial[0].w.any()

    [small] = reduce([problem], shows)
    assert small.x.shape == (1, 2, 1)
    assert small.w.flags.c_contiguous
    assert small.dy.size == 2


def test_every_smaller_problem_is_smaller() -> None:
    """So that reducing ends."""
    problem = numbered(3)
    assert [(p.x.any(), p.w.any(), p.dy.any()) for p in smaller_problems(problem)].count(
        (True, True, True)
    ) == 1  # x as ones


def test_neighbours_are_near_and_have_no_zeros() -> None:
    """One number differs, less or more; zeros would hide a fault."""
    near = list(neighbours(numbered(1)))
    assert all(array.all() for p in near for array in (p.x, p.w, p.dy))
    assert {p.x.shape for p in near} >= {(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 4, 1)}
    assert {p.params.stride for p in near} == {(1,), (2,), (4,)}
    assert {p.b is None for p in near} == {True, False}
