"""What a mutant is, and how one is made of a function that says what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles.compare import reference_grads
from oracles.protocol import DTYPES, Box, Domain
from reference.layout import memory_of, strides_of
from reference.problem import Array, ConvGrads, ConvParams, ConvProblem
from tests.support.mutants import loops
from tests.support.mutants.loops import Reads

Spoil = Callable[[ConvProblem, ConvGrads], ConvGrads]
Value = Callable[[ConvProblem, ConvGrads], Array]
Where = Callable[[ConvProblem], bool]

EVERYTHING = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES))
SPECIAL = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES), special_values=True)


@dataclass(frozen=True)
class Mutant:
    """An oracle that is wrong; `spoil` gets the right gradients and returns wrong ones.

    gradients      the results that it spoils; () where there may be no answer at all
    upstream       the reports that it is modelled on
    needs          what a problem must have to show it that keeps it from being small, or from being
                   drawn; "" if nothing
    needs_process  whether it crashes, hangs, or answers by what it was asked before
    """

    name: str
    module: str
    words: str
    spoil: Spoil
    gradients: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    domain: Domain = EVERYTHING
    needs: str = ""
    needs_process: bool = False

    distribution = None

    @property
    def special(self) -> bool:
        """Whether it is wrong on NaN and Inf alone: it promises the rule for them."""
        return self.domain.special_values

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """Wrong gradients."""
        with np.errstate(all="ignore"):
            return self.spoil(problem, reference_grads(problem))


@dataclass(frozen=True)
class Fault:
    """Makes mutants with one of these results spoilt, out of functions whose docstring says how.

    `where` says of which problems; the arguments without names are upstream reports, those with
    other names as of `Mutant`.
    """

    gradients: tuple[str, ...]

    def answers(
        self, *upstream: str, where: Where = lambda _: True, **about: Any
    ) -> Callable[[Spoil], Mutant]:
        """From a function of the problem and the right answer to the wrong one."""

        def planted(spoil: Spoil) -> Mutant:
            def spoilt(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
                return spoil(problem, right) if where(problem) else right

            name, module, words = spoil.__name__, spoil.__module__, spoil.__doc__ or ""
            return Mutant(name, module, words, spoilt, self.gradients, upstream, **about)

        return planted

    def forms(self, *upstream: str, **about: Any) -> Callable[[Value], Mutant]:
        """From a function to the wrong result, of whatever shape and dtype."""

        def planted(value: Value) -> Mutant:
            [name] = self.gradients

            @functools.wraps(value)
            def spoil(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
                claimed = getattr(right, name) is not None
                return _with(right, **{name: value(problem, right)}) if claimed else right

            return self.answers(*upstream, **about)(spoil)

        return planted

    def values(self, *upstream: str, **about: Any) -> Callable[[Value], Mutant]:
        """From a function to the wrong result, which is rounded to the dtype of the problem."""

        def planted(value: Value) -> Mutant:
            @functools.wraps(value)
            def rounded(problem: ConvProblem, right: ConvGrads) -> Array:
                return np.asarray(value(problem, right)).astype(problem.dtype)

            return self.forms(*upstream, **about)(rounded)

        return planted

    def tables(
        self, *upstream: str, **about: Any
    ) -> Callable[[Callable[[ConvProblem], Array]], Mutant]:
        """From a function of the problem to a wrong table of cells, see `loops.cells`."""

        def planted(table: Callable[[ConvProblem], Array]) -> Mutant:
            @functools.wraps(table)
            def spoil(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
                cells = table(problem)
                wrong = {name: _BY_TABLE[name](problem, cells) for name in self.gradients}
                return _with(right, **{k: v.astype(problem.dtype) for k, v in wrong.items()})

            return self.answers(*upstream, **about)(spoil)

        return planted

    def reads(self, *upstream: str, **about: Any) -> Callable[[Reads], Mutant]:
        """From a function of an axis to the wrong places that are read there."""

        def planted(reads: Reads) -> Mutant:
            @functools.wraps(reads)
            def table(problem: ConvProblem) -> Array:
                return loops.cells(problem, reads)

            return self.tables(*upstream, **about)(table)

        return planted

    def params(
        self, *upstream: str, **about: Any
    ) -> Callable[[Callable[[ConvParams], ConvParams]], Mutant]:
        """From a function of the params to wrong ones."""

        def planted(change: Callable[[ConvParams], ConvParams]) -> Mutant:
            @functools.wraps(change)
            def table(problem: ConvProblem) -> Array:
                return loops.cells(problem, params=change(problem.params))

            return self.tables(*upstream, **about)(table)

        return planted


def _with(right: ConvGrads, **wrong: Array) -> ConvGrads:
    return replace(right, **wrong)


def _y_of(problem: ConvProblem, cells: Array) -> Array:
    y = loops.y_of(problem, cells)
    return y if problem.b is None else np.asarray(y + problem.b.astype(np.float64))


_BY_TABLE: dict[str, Callable[[ConvProblem, Array], Array]] = {
    "dx": loops.dx_of,
    "dw": loops.dw_of,
    "y": _y_of,
}


def garbage(like: Array) -> Array:
    """What memory that was never written holds."""
    return np.full(like.nbytes, 0xA5, np.uint8).view(like.dtype).reshape(like.shape)


def read_as_dense(array: Array) -> Array:
    """What is read of `array` by who takes it for C-contiguous, with zeros behind its memory."""
    strides = strides_of(array)
    if strides is None:
        return array
    dense = np.zeros(array.size, array.dtype)
    memory = memory_of(array, strides)[: array.size]
    dense[: memory.size] = memory
    return dense.reshape(array.shape)


def in_bits(array: Array, bits: int) -> Array:
    """`array` rounded to so many significant bits, in float64."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))


def is_pointwise(problem: ConvProblem) -> bool:
    """Whether the kernel has one tap."""
    return set(problem.kernel) == {1}


def is_strided(problem: ConvProblem) -> bool:
    """Whether some stride is not 1."""
    return set(problem.params.stride) != {1}


def group_in(problem: ConvProblem) -> int:
    """The input channels of a group."""
    return int(problem.w.shape[-2])


def group_out(problem: ConvProblem) -> int:
    """The filters of a group."""
    return int(problem.w.shape[-1] // problem.params.groups)
