"""Faults that show on NaN and Inf only; on numbers these are right.

What is right is the rule of `reference.conv`: a tap in the padding is absent, the rest is IEEE 754.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem
from tests.support.mutants.fault import SPECIAL, Fault
from tests.support.mutants.loops import NOWHERE, Axis, cells, dw_of, dx_of

DX, DW, DB = Fault(("dx",)), Fault(("dw",)), Fault(("db",))
WIDE = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")), special_values=True)


def _nearest(axis: Axis) -> Array:
    return np.clip(axis.place, 0, axis.size - 1)


def _only_padding(problem: ConvProblem) -> Array:
    """For each tap in the padding the nearest cell, NOWHERE for the others."""
    return np.where(cells(problem) == NOWHERE, cells(problem, _nearest), NOWHERE)


@DW.values("tensorflow#63391", domain=SPECIAL)
def dw_nan_swallowed(problem: ConvProblem, right: ConvGrads) -> Array:
    """NaN and Inf in x and dy count as 0."""
    x, dy = (np.where(np.isfinite(array), array, 0) for array in (problem.x, problem.dy))
    return dw_of(replace(problem, x=x, dy=dy))


@DX.values("TransformerEngine#3116", "mace#345", domain=SPECIAL)
def dx_nan_leaks_through_zero_mask(problem: ConvProblem, right: ConvGrads) -> Array:
    """What lies in the padding is multiplied by 0 and added to the nearest cell."""
    return np.asarray(dx_of(problem) + 0 * dx_of(problem, _only_padding(problem)))


@DX.values("sparse", domain=SPECIAL)
def dx_zero_weight_skipped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Products with a weight of 0 are skipped, those with Inf and NaN too."""

    def product(dy: Array, w: Array) -> Array:
        products = np.where(w == 0, 0, dy[:, :, None] * w)
        return np.asarray(products.sum(axis=-1).swapaxes(-1, -2))

    return dx_of(problem, product=product)


@DW.values(domain=SPECIAL)
def dw_padding_multiplied(problem: ConvProblem, right: ConvGrads) -> Array:
    """Padding is multiplied as zeros: Inf and NaN in dy make NaN there."""
    zeros = replace(problem, x=np.zeros_like(problem.x))
    return np.asarray(dw_of(problem) + dw_of(zeros, _only_padding(problem)))


@DW.values(domain=SPECIAL)
def dw_unread_cells_read(problem: ConvProblem, right: ConvGrads) -> Array:
    """Cells that no window reads are multiplied by 0."""
    read = np.unique(cells(problem))
    is_unread = ~np.isin(np.arange(math.prod(problem.spatial)), read).reshape(problem.spatial)
    return np.asarray(dw_of(problem) + 0 * problem.x[:, is_unread].astype(np.float64).sum())


@DX.values(domain=WIDE)
def dx_inf_saturated(problem: ConvProblem, right: ConvGrads) -> Array:
    """Inf is stored as the largest number."""
    largest = np.finfo(problem.dtype).max
    return np.clip(right.dx, -largest, largest)


@DB.values(domain=SPECIAL)
def db_nan_swallowed(problem: ConvProblem, right: ConvGrads) -> Array:
    """NaN in dy counts as 0."""
    dy = problem.dy.astype(np.float64)
    return np.asarray(np.nansum(dy, axis=tuple(range(dy.ndim - 1))))
