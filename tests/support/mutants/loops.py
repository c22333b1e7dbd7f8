"""Convolution and its gradients from tables that say which cell of the input each tap reads.

Right as it stands: a mutant is one of these with another table. Sums are in float64, not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from reference.problem import Array, ConvParams, ConvProblem

NOWHERE = -1


@dataclass(frozen=True)
class Axis:
    """One spatial axis; `number` counts from the end, -1 is the last."""

    number: int
    rank: int
    size: int
    taps: int
    outputs: int
    stride: int
    dilation: int
    lo: int
    hi: int

    @property
    def out(self) -> Array:
        """The outputs (O, 1)."""
        return np.arange(self.outputs)[:, None]

    @property
    def tap(self) -> Array:
        """The taps (1, K)."""
        return np.arange(self.taps)[None, :]

    @property
    def place(self) -> Array:
        """Where each output's taps lie (O, K); in the padding that is below 0, or `size` and up."""
        place: Array = self.out * self.stride + self.tap * self.dilation - self.lo
        return place

    @property
    def extent(self) -> int:
        """The cells that the dilated kernel spans."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def rest(self) -> int:
        """Cells of the padded input beyond the last window."""
        return self.size + self.lo + self.hi - (self.outputs - 1) * self.stride - self.extent

    @property
    def is_first(self) -> bool:
        """Whether this is the first axis."""
        return self.number == -self.rank


Reads = Callable[[Axis], Array]
Product = Callable[[Array, Array], Array]


def axes(problem: ConvProblem, params: ConvParams | None = None) -> list[Axis]:
    """The axes of `problem`, as they were with `params`."""
    params, rank = params or problem.params, problem.params.rank
    sizes = (problem.spatial, problem.kernel, problem.dy.shape[1:-1])
    columns = zip(range(-rank, 0), *sizes, params.stride, params.dilation, params.padding)
    return [Axis(n, rank, s, k, o, step, gap, *pad) for n, s, k, o, step, gap, pad in columns]


def _place(axis: Axis) -> Array:
    return axis.place


def cells(problem: ConvProblem, reads: Reads = _place, params: ConvParams | None = None) -> Array:
    """The cell of the input that each tap of each output reads (prod(O), prod(K)), or NOWHERE.

    `reads` says where on an axis: (O, K), what is not in the input is not read.
    """
    table = np.zeros((1, 1), int)
    for axis in axes(problem, params):
        place = reads(axis)[None, :, None, :]
        before = table[:, None, :, None]
        inside = (before != NOWHERE) & (place >= 0) & (place < axis.size)
        table = np.where(inside, before * axis.size + place, NOWHERE)
        table = table.reshape(table.shape[0] * axis.outputs, -1)
    return table


def _to_dx(dy: Array, w: Array) -> Array:
    return np.asarray(np.einsum("nogf,cgf->nogc", dy, w))


def _to_dw(x: Array, dy: Array) -> Array:
    return np.asarray(np.einsum("nogc,nogf->cgf", x, dy))


def _to_y(x: Array, w: Array) -> Array:
    return np.asarray(np.einsum("nogc,cgf->nogf", x, w))


def dx_of(
    problem: ConvProblem,
    table: Array | None = None,
    product: Product = _to_dx,
    *,
    accumulates: bool = True,
) -> Array:
    """dX (N, *S, C) by `table`; without `accumulates` a later tap overwrites an earlier one."""
    x, w, dy = _by_groups(problem)
    dx = np.zeros(x.shape)
    for tap, outputs, places in _taps(problem, table):
        share = product(dy[:, outputs], w[tap])
        if accumulates:
            np.add.at(dx.swapaxes(0, 1), places, share.swapaxes(0, 1))
        else:
            dx[:, places] = share
    return dx.reshape(problem.x.shape)


def dw_of(problem: ConvProblem, table: Array | None = None, product: Product = _to_dw) -> Array:
    """dW (*K, C/groups, F) by `table`."""
    x, w, dy = _by_groups(problem)
    dw = np.zeros(w.shape)
    for tap, outputs, places in _taps(problem, table):
        dw[tap] = product(x[:, places], dy[:, outputs])
    return dw.reshape(problem.w.shape)


def y_of(problem: ConvProblem, table: Array | None = None) -> Array:
    """y (N, *O, F) by `table`, without the bias."""
    x, w, dy = _by_groups(problem)
    y = np.zeros(dy.shape)
    for tap, outputs, places in _taps(problem, table):
        y[:, outputs] += _to_y(x[:, places], w[tap])
    return y.reshape(problem.dy.shape)


def db_of(problem: ConvProblem) -> Array:
    """db (F,)."""
    db: Array = problem.dy.astype(np.float64).sum(axis=tuple(range(problem.dy.ndim - 1)))
    return db


def _taps(problem: ConvProblem, table: Array | None) -> Iterator[tuple[int, Array, Array]]:
    """Each tap, the outputs for which it reads the input, and where."""
    for tap, places in enumerate((cells(problem) if table is None else table).T):
        outputs = np.flatnonzero(places != NOWHERE)
        yield tap, outputs, places[outputs]


def _by_groups(problem: ConvProblem) -> tuple[Array, Array, Array]:
    """x (N, cells, groups, C/groups), w (taps, C/groups, groups, F/groups), dy like x."""
    groups, (group_in, filters) = problem.params.groups, problem.w.shape[-2:]
    batch, group_out = problem.x.shape[0], filters // groups
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, problem.dy))
    return (
        x.reshape(batch, math.prod(problem.spatial), groups, group_in),
        w.reshape(math.prod(problem.kernel), group_in, groups, group_out),
        dy.reshape(batch, math.prod(dy.shape[1:-1]), groups, group_out),
    )
