"""The narrowest predicate that a set of failures suggests: what a ledger record could say.

A predicate is a conjunction of conditions on numbers that a person would name: sizes, strides,
padding, channels. Every condition holds for all failures; conditions are added, the one first that
rules out the most of the problems that passed, until none of those is left.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles.compare import Verdict
from oracles.protocol import group_kind
from reference.problem import ConvProblem, same_padding
from tests.support.regions import regions_in_common

_MOST_SEEN = 3000  # problems that passed, kept to be told apart from failures

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Condition:
    """`feature` `relation` `value`, of which `relation` is one of ==, >=, <=."""

    feature: str
    relation: str
    value: int | str

    def __str__(self) -> str:
        if self.value is True or self.value is False:
            return self.feature if self.value else f"not ({self.feature})"
        return f"{self.feature} {self.relation} {self.value}"

    def holds(self, features: dict[str, int | str]) -> bool:
        """Whether a problem with these features meets the condition."""
        if self.feature not in features:  # an axis that it has not
            return False
        return _COMPARE[self.relation](features[self.feature], self.value)


@dataclass(frozen=True)
class Proposal:
    """All of `conditions`: `failing` failures meet them, and `passing` of `passed` passes."""

    conditions: tuple[Condition, ...]
    failing: int
    passing: int
    passed: int

    def __str__(self) -> str:
        words = " and ".join(map(str, self.conditions)) or "nothing that the others have not"
        passing = f"{self.passing} of {self.passed}" if self.passing else f"none of {self.passed}"
        return f"in common: {words} (so have {self.failing} failures, {passing} passes)"

    def applies(self, problem: ConvProblem) -> bool:
        """Whether `problem` meets all conditions."""
        features = describe_features(problem)
        return all(condition.holds(features) for condition in self.conditions)


def propose(failing: Sequence[ConvProblem], passing: Sequence[ConvProblem]) -> Proposal:
    """The conditions that all of `failing` meet and, as far as such exist, none of `passing`."""
    bad, good = [describe_features(p) for p in failing], [describe_features(p) for p in passing]
    candidates = _conditions(bad)
    chosen: list[Condition] = []
    while good:
        left = {c: [g for g in good if c.holds(g)] for c in candidates}
        best = min(candidates, key=lambda c: len(left[c]), default=None)
        if best is None or len(left[best]) == len(good):
            break
        chosen.append(best)
        good = left[best]
    for condition in list(chosen):  # a later one may have made an earlier one superfluous
        fewer = [other for other in chosen if other is not condition]
        met = [p for p in map(describe_features, passing) if all(c.holds(p) for c in fewer)]
        if len(met) == len(good):
            chosen = fewer
    return Proposal(tuple(chosen), len(failing), len(good), len(passing))


def _conditions(bad: Sequence[dict[str, int | str]]) -> list[Condition]:
    """Every condition that all of `bad` meet, as tight as they allow."""
    shared = [name for name in bad[0] if all(name in features for features in bad)]
    found = []
    for name in shared:
        values = [features[name] for features in bad]
        if len(set(values)) == 1:
            found.append(Condition(name, "==", values[0]))
        if not isinstance(values[0], (bool, str)):
            numbers = [value for value in values if isinstance(value, int)]
            found += [Condition(name, ">=", min(numbers)), Condition(name, "<=", max(numbers))]
    return found


def describe_features(problem: ConvProblem) -> dict[str, int | str]:
    """What conditions can be put on, the plainest first."""
    params, rank = problem.params, problem.params.rank
    batch, channels, filters = problem.x.shape[0], problem.x.shape[-1], problem.w.shape[-1]
    out = problem.dy.shape[1:-1]
    features: dict[str, int | str] = {
        "dtype": problem.dtype.name,
        "rank": rank,
        "groups kind": group_kind(problem),
        "bias": problem.b is not None,
        "N": batch,
        "C": channels,
        "F": filters,
        "groups": params.groups,
        "C / groups": channels // params.groups,
        "F / groups": filters // params.groups,
        "outputs per sample": math.prod(out),
        "kernel taps": math.prod(problem.kernel),
    }
    lo, hi = zip(*params.padding)
    ends = [
        size + sum(pair) - ((o - 1) * stride + extent)
        for size, pair, o, stride, extent in zip(
            problem.spatial, params.padding, out, params.stride, problem.extent
        )
    ]
    # dX is a convolution too, of dy that is spread by the stride, and padded by so much
    dx_lo = [extent - 1 - before for extent, before in zip(problem.extent, lo)]
    dx_hi = [
        size - 1 + before - (o - 1) * stride
        for size, before, o, stride in zip(problem.spatial, lo, out, params.stride)
    ]
    for name, values in (
        ("stride", params.stride),
        ("dilation", params.dilation),
        ("kernel", problem.kernel),
        ("output", out),
        ("input", problem.spatial),
        ("padding lo", lo),
        ("padding hi", hi),
        ("unread end", ends),
        ("padding lo of dX", dx_lo),
        ("padding hi of dX", dx_hi),
    ):
        features[f"max({name})"] = max(values)
        if rank > 1:
            features[f"min({name})"] = min(values)
        for axis in range(-rank, 0):
            features[f"{name}[{axis}]"] = values[axis]
    same = same_padding(problem.spatial, problem.kernel, params.stride, params.dilation)
    features["padding is SAME"] = params.padding == same
    features["padding is symmetric"] = lo == hi
    features["no padding"] = not any(map(any, params.padding))
    features["equal strides"] = len(set(params.stride)) == 1
    for axis in range(-rank, 0):
        dilation = params.dilation[axis]
        features[f"output[{axis}] <= dilation[{axis}]"] = out[axis] <= dilation
        features[f"input[{axis}] <= dilation[{axis}]"] = problem.spatial[axis] <= dilation
        read = _cells_read(problem, axis)
        features[f"axis {axis} reads nothing but padding"] = not read.any()
        some = f"axis {axis} has an output that reads nothing but padding"
        features[some] = not read.any(axis=1).all()
    return features


def _cells_read(problem: ConvProblem, axis: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Of each output and tap on one axis, whether it reads the input and not padding."""
    params = problem.params
    outputs = np.arange(problem.dy.shape[1:-1][axis]) * params.stride[axis]
    taps = np.arange(problem.kernel[axis]) * params.dilation[axis]
    cells = outputs[:, None] + taps - params.padding[axis][0]
    read: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (cells >= 0) & (
        cells < problem.spatial[axis]
    )
    return read


@dataclass
class _Defect:
    """Failures that seem to have one cause: those of one manner, and what they have in common."""

    manner: str
    failing: list[ConvProblem]
    region: Proposal


class Seen:
    """What one oracle has passed and failed, and the regions that are left out since.

    While it is being explored, up to the time `exploring_until`, failures are only taken note of.
    """

    def __init__(self) -> None:
        self.exploring_until = 0.0
        self.asked_before_failure = 0
        self._asked = 0
        self._passing: deque[ConvProblem] = deque(maxlen=_MOST_SEEN)
        self._failing: dict[str, list[ConvProblem]] = {}
        self._left_out: list[_Defect] = []

    def begin(self) -> None:
        """Count anew how many problems are asked before the first failure."""
        self._asked = self.asked_before_failure = 0

    def add(self, problem: ConvProblem, verdict: Verdict) -> None:
        """Take note of a verdict on `problem`."""
        self._asked += 1
        if verdict.kind == "agrees":
            if all(
                np.count_nonzero(a) * 2 >= a.size > 0 for a in (problem.x, problem.w, problem.dy)
            ):
                self._passing.append(problem)  # else zeros may have hidden what is wrong
            return
        self.asked_before_failure = self.asked_before_failure or self._asked
        self._failing.setdefault(manner_of(verdict), []).append(verdict.problem)

    def region(self, verdict: Verdict) -> Proposal:
        """What the failures like `verdict` have in common, those that are left out set aside."""
        return self._defect(verdict).region

    def regions(self, verdict: Verdict) -> list[str]:
        """The regions that the failures like `verdict` are in, and few passes."""
        failing = self._defect(verdict).failing or [verdict.problem]
        return regions_in_common([*failing, verdict.problem], self._passing)

    def leave_out(self, verdict: Verdict) -> None:
        """From now on ask for nothing that has the rank and dtype of `verdict` and its region.

        Where it seems to be a defect that is left out already, its region becomes wider.
        """
        new = self._defect(verdict)
        for number, old in enumerate(self._left_out):
            if old.manner == new.manner:
                failing = old.failing + new.failing
                wider = propose(failing, self._passing)
                if _is_plausible(wider):
                    self._left_out[number] = _Defect(old.manner, failing, wider)
                    return
        self._left_out.append(new)

    def left_out(self, problem: ConvProblem) -> bool:
        """Whether `problem` lies in a region that is left out."""
        cell = _cell(problem)
        return any(
            defect.manner.startswith(cell) and defect.region.applies(problem)
            for defect in self._left_out
        )

    def _defect(self, verdict: Verdict) -> _Defect:
        manner = manner_of(verdict)
        like = self._failing.get(manner, [])
        failing = [problem for problem in like if not self.left_out(problem)]
        region = propose(failing or [verdict.problem], self._passing)
        if not _is_plausible(region):  # two defects that look alike
            failing = [verdict.problem]
            region = propose(failing, self._passing)
        return _Defect(manner, failing, region)


def _is_plausible(region: Proposal) -> bool:
    """Whether what the failures have in common holds for few passes."""
    return 2 * region.passing <= region.failing and 10 * region.passing <= region.passed


def _cell(problem: ConvProblem) -> str:
    return f"{problem.params.rank}-D {problem.dtype} "


def manner_of(verdict: Verdict) -> str:
    """How an oracle failed, alike for alike failures: rank, dtype, kind, result or signal."""
    words = [name for name, right in verdict.results.items() if right is False]
    if not words:
        words = [verdict.message.removeprefix(verdict.oracle).split("[")[0].split(",")[0]]
    return f"{_cell(verdict.problem)}{verdict.kind} {words[0]}"
