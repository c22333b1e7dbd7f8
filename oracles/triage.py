"""Which problem really did it: a fault is made to show again in new processes, and pinned down.

Heap corruption shows later than it happens, in an innocent problem, and a cache with a wrong key
answers for the problem before. So a fault counts where it can be shown again: by its problem alone,
asked again and again in a new process; else by problems that the old process had been asked before,
out of which the guilty ones are searched by bisection. What never shows again has been seen once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from oracles.protocol import Differs, Evidence, Hung, OracleError
from reference import layout
from reference.problem import Array, ConvParams, ConvProblem, Size, output_size

TRIES = 3  # new processes in which a fault may show again
REPEATS = 20  # times that a problem is asked in each of them
LONG = 200  # times that the last problem is asked after others, for corruption to show
SECONDS = 120.0  # most that one search may take, but for the question in hand
SMALLER = 300  # most problems that are tried to make a guilty one smaller
_FEW = 16  # problems that a fault may need for them to be made smaller


@dataclass(frozen=True)
class Shown:
    """The fault that came at `index` of the problems asked."""

    index: int
    error: OracleError


Rehearse = Callable[[Sequence[ConvProblem]], Shown | None]
"""Asks the problems one after the other in a new process, until a fault shows."""


class _OutOfTime(Exception):
    """The search has taken SECONDS."""


def explain(
    rehearse: Rehearse,
    problem: ConvProblem,
    history: Sequence[ConvProblem],
    first: OracleError,
    may_ask: Callable[[ConvProblem], bool] = lambda _: True,
) -> OracleError | None:
    """`first` with the evidence that shows it again; None where nothing does.

    `problem` is what was asked when `first` showed, `history` what the same process had been asked
    before it. `may_ask` says which problems may be tried in the place of a guilty one, to find a
    smaller one.
    """
    repeats, tries = (1, 1) if isinstance(first, Hung) else (REPEATS, TRIES)
    for number in range(1, tries + 1):
        if shown := rehearse([problem] * repeats):
            evidence = Evidence(problem, (), shown.index + 1)
            again = f", again in fresh process {number} of {tries}"
            return _with(shown.error, evidence, again if is_sudden(first) else "")
    if not history:
        return None
    search = _Search(rehearse, time.monotonic() + SECONDS)
    for _ in range(2):
        if found := search.culprit(list(history), problem):
            innocent = None if found[1].problem is problem else problem
            shown, evidence = search.smaller(*found, may_ask)
            return _with(shown.error, replace(evidence, seen_at=innocent), "")
    return None


def is_sudden(error: OracleError) -> bool:
    """Whether it ended the process: then it is worth saying that it did so again."""
    return error.kind in ("crashes", "hangs")


def _with(error: OracleError, evidence: Evidence, again: str) -> OracleError:
    """`error`, saying how it was shown again."""
    if error.kind != Differs.kind:  # of which the court makes a sentence
        error.args = (f"{error}{again}{evidence}",)
    error.evidence = evidence
    return error


class _Search:
    """One search; what is known when the time is out is its result."""

    def __init__(self, rehearse: Rehearse, deadline: float) -> None:
        self._rehearse = rehearse
        self._deadline = deadline

    def _shows(self, before: Sequence[ConvProblem], problem: ConvProblem) -> Shown | None:
        if time.monotonic() > self._deadline:
            raise _OutOfTime
        return self._rehearse([*before, *[problem] * LONG])

    def culprit(
        self, history: list[ConvProblem], problem: ConvProblem
    ) -> tuple[Shown, Evidence] | None:
        """The fewest of `history` that make a fault show, then or while `problem` is asked."""
        try:
            whole = self._shows(history, problem)
        except _OutOfTime:
            return None
        if whole is None:
            return None
        if whole.index < len(history):  # sooner than the first time
            history, problem = history[: whole.index], history[whole.index]
        best = whole, _evidence(whole, history, problem)
        try:
            end = _first(len(history), lambda count: self._shows(history[:count], problem))
            if end == 0:
                alone, guilty = self._shows([], problem), problem
            else:
                guilty = history[end - 1]
                alone = self._shows([], guilty)
            if alone is not None:
                return alone, _evidence(alone, [], guilty)
            skipped = _first(end, lambda count: not self._shows(history[count + 1 : end], problem))
            before = history[skipped:end]
            best = self._still_shows(before, problem) or best
            size = len(before) // 2
            while size and 32 * size >= len(before):  # else it would take too many processes
                start = 0
                while start < len(before):
                    fewer = before[:start] + before[start + size :]
                    if shown := self._shows(fewer, problem):
                        before, best = fewer, (shown, _evidence(shown, fewer, problem))
                    else:
                        start += size
                size //= 2
        except _OutOfTime:
            pass
        return best

    def _still_shows(
        self, before: list[ConvProblem], problem: ConvProblem
    ) -> tuple[Shown, Evidence] | None:
        shown = self._shows(before, problem)
        return None if shown is None else (shown, _evidence(shown, before, problem))

    def smaller(
        self, shown: Shown, evidence: Evidence, may_ask: Callable[[ConvProblem], bool]
    ) -> tuple[Shown, Evidence]:
        """The same fault from smaller problems, as far as they are found in time."""
        sequence = [*evidence.before, evidence.problem]
        if len(sequence) > 1 + _FEW:
            return shown, evidence
        repeats = min(LONG, 4 * evidence.asks)

        def shows(trial: list[ConvProblem]) -> bool:
            nonlocal shown, evidence
            if not all(map(may_ask, trial)):
                return False
            if time.monotonic() > self._deadline:
                raise _OutOfTime
            found = self._rehearse(trial + [trial[-1]] * (repeats - 1))
            if found is None or found.error.kind != shown.error.kind:
                return False
            if found.index < len(trial) - 1:  # another fault
                return False
            shown, evidence = found, _evidence(found, trial[:-1], trial[-1])
            return True

        with contextlib.suppress(_OutOfTime):
            reduce(sequence, shows)
        return shown, evidence


def _evidence(shown: Shown, before: Sequence[ConvProblem], problem: ConvProblem) -> Evidence:
    """What showed at `shown.index` of `before` and then `problem`, again and again."""
    if shown.index < len(before):
        return Evidence(before[shown.index], tuple(before[: shown.index]))
    return Evidence(problem, tuple(before), shown.index - len(before) + 1)


def _first(most: int, holds: Callable[[int], object]) -> int:
    """The first number below `most` for which `holds`, if it does so from there on; else `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def reduce(
    problems: list[ConvProblem], shows: Callable[[list[ConvProblem]], bool]
) -> list[ConvProblem]:
    """The smallest problems found for which `shows` still holds, out of at most SMALLER trials."""
    tries = 0
    found = True
    while found:
        found = False
        for trial in _smaller_sequences(problems):
            if tries == SMALLER:
                return problems
            tries += 1
            if shows(trial):
                problems, found = trial, True
                break
    return problems


def _smaller_sequences(problems: list[ConvProblem]) -> Iterator[list[ConvProblem]]:
    """`problems` with one of them smaller, or all of them in the same way."""
    forms = [_Form.of(problem) for problem in problems]
    if len(problems) > 1 and len({form.rank for form in forms}) == 1:
        for position, less in forms[-1].steps():
            steps = (form.stepped(position, less) for form in forms)
            cuts = [form.cut_from(problem) for form, problem in zip(steps, problems)]
            if None not in cuts:
                yield [cut for cut in cuts if cut is not None]
    for number, problem in enumerate(problems):
        for smaller in smaller_problems(problem):
            yield [*problems[:number], smaller, *problems[number + 1 :]]


def smaller_problems(problem: ConvProblem) -> Iterator[ConvProblem]:
    """`problem` with one thing less, the greatest steps first: sizes, parameters, bias, values.

    Arrays keep their layouts, or are made C-contiguous.
    """
    form = _Form.of(problem)
    for position, less in form.steps():
        for corner in (_first_corner, _last_corner):
            if (cut := form.stepped(position, less).cut_from(problem, corner)) is not None:
                yield cut
    if problem.b is not None:
        yield replace(problem, b=None)
    for name in ("x", "w", "b", "dy"):
        array = getattr(problem, name)
        if array is None:
            continue
        others: list[Any] = []
        if layout.strides_of(array) is not None:
            others.append(np.array(array, order="C"))
        if array.any():
            others.append(layout.laid_like(np.zeros_like(array), array))
            if not (array == 1).all():
                others.append(layout.laid_like(np.ones_like(array), array))
        for other in others:
            yield replace(problem, **{name: other})


def neighbours(problem: ConvProblem) -> Iterator[ConvProblem]:
    """`problem` with one number less or more, without zeros: what its fault depends on."""
    form = _Form.of(problem)
    with_bias = replace(problem, b=np.zeros(problem.w.shape[-1:], problem.dtype))
    yield _filled(replace(problem, b=None), problem)
    yield _filled(with_bias, problem)
    for position, number in enumerate(form.numbers):
        for other in dict.fromkeys((number - 1, number + 1, 2 * number, 4 * number)):
            if other >= form.least[position] and other != number:
                cut = form.with_number(position, other).cut_from(
                    problem if problem.b is None else with_bias
                )
                if cut is not None:
                    yield _filled(cut, problem)


def _filled(problem: ConvProblem, like: ConvProblem) -> ConvProblem:
    """`problem` with values none of which is zero: of small integers no two neighbours are equal.

    Where `like` holds other numbers, which a fault may need, they are taken.
    """

    def fill(name: str) -> Array | None:
        array, given = getattr(problem, name), getattr(like, name)
        if array is None:
            return None
        values: Any = [1, 2, -3, 4, -2, 3, -1]
        if given is not None and not np.isin(given, [0, *values, -4]).all():
            values = given[given != 0]
        return layout.laid_like(np.resize(values, array.shape).astype(array.dtype), array)

    x, w, b, dy = map(fill, ("x", "w", "b", "dy"))
    assert x is not None
    assert w is not None
    assert dy is not None
    return ConvProblem(x, w, b, dy, problem.params)


@dataclass(frozen=True)
class _Form:
    """The sizes and parameters of a problem as one flat tuple of numbers each."""

    rank: int
    numbers: tuple[int, ...]

    @staticmethod
    def of(problem: ConvProblem) -> _Form:
        params = problem.params
        return _Form(
            params.rank,
            (
                problem.x.shape[0],
                params.groups,
                problem.w.shape[-2],
                problem.w.shape[-1] // params.groups,
                *problem.spatial,
                *problem.kernel,
                *params.stride,
                *params.dilation,
                *(cells for pair in params.padding for cells in pair),
            ),
        )

    @property
    def least(self) -> list[int]:
        """What each number can be at least."""
        return [1] * (4 + 4 * self.rank) + [0] * (2 * self.rank)

    def steps(self) -> Iterator[tuple[int, int]]:
        """Which number can be what less: the least that it can be, half, one less."""
        for position, (number, low) in enumerate(zip(self.numbers, self.least)):
            for less in dict.fromkeys((low, number // 2, number - 1)):
                if low <= less < number:
                    yield position, less

    def stepped(self, position: int, less: int) -> _Form:
        """This with at most `less` for one number."""
        return self.with_number(position, min(self.numbers[position], less))

    def with_number(self, position: int, number: int) -> _Form:
        """This with another number in one place."""
        numbers = list(self.numbers)
        numbers[position] = number
        return _Form(self.rank, tuple(numbers))

    def cut_from(self, problem: ConvProblem, corner: _Corner | None = None) -> ConvProblem | None:
        """The corner of `problem`, the first, that has this form; None where that is no problem."""
        corner = corner or _first_corner
        batch, groups, group_in, group_out, *rest = self.numbers
        axes = [
            tuple(rest[start : start + self.rank]) for start in range(0, 4 * self.rank, self.rank)
        ]
        spatial, kernel, stride, dilation = axes
        pads = rest[4 * self.rank :]
        filters = groups * group_out
        try:
            params = ConvParams(stride, tuple(zip(pads[::2], pads[1::2])), dilation, groups)
            out = output_size(spatial, kernel, params)
            return ConvProblem(
                corner(problem.x, (batch, *spatial, groups * group_in)),
                corner(problem.w, (*kernel, group_in, filters)),
                None if problem.b is None else corner(problem.b, (filters,)),
                corner(problem.dy, (batch, *out, filters)),
                params,
            )
        except ValueError:
            return None


def _first_corner(array: Array, shape: Size) -> Array:
    """The first elements of `array` on each axis, zeros where it has too few."""
    corner = np.zeros(shape, array.dtype)
    both = tuple(slice(min(have, want)) for have, want in zip(array.shape, shape))
    corner[both] = array[both]
    return layout.laid_like(corner, array)


def _last_corner(array: Array, shape: Size) -> Array:
    """The last elements of `array` on each axis, zeros before them where it has too few."""
    backwards = (slice(None, None, -1),) * array.ndim
    return layout.laid_like(_first_corner(array[backwards], shape)[backwards], array)


_Corner: TypeAlias = Callable[[Array, Size], Array]
