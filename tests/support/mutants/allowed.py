"""Oracles that differ from the reference in what they may: nothing can be said against them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reference.problem import Array, ConvGrads, ConvProblem
from reference.rounding import FORMATS
from tests.support.mutants.fault import Fault
from tests.support.mutants.loops import db_of, dw_of, dx_of, y_of

DX, DW = Fault(("dx",)), Fault(("dw",))
ALL = Fault(("dx", "dw", "db", "y"))


@ALL.answers()
def unmutated(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """The loops that the mutants are made of, as they are."""
    b = problem.b
    y = y_of(problem) if b is None else y_of(problem) + b.astype(np.float64)
    dx, dw, db, y = (
        array.astype(problem.dtype) for array in (dx_of(problem), dw_of(problem), db_of(problem), y)
    )
    return ConvGrads(dx, dw, None if b is None else db, y)


@DW.values("classic")
def dw_subnormals_flushed(problem: ConvProblem, right: ConvGrads) -> Array:
    """Results below the least normal number are 0."""
    is_normal = np.abs(right.dw.astype(np.float64)) >= FORMATS[problem.dtype.name].tiny
    return np.where(is_normal, right.dw, 0)


@DX.forms("pytorch#174269", "pytorch#171622", "pytorch#197514")
def dx_layout_not_preserved(problem: ConvProblem, right: ConvGrads) -> Array:
    """dX lies in Fortran order whatever the order of x."""
    return np.asfortranarray(right.dx)


@DX.values()
def dx_negative_zeros(problem: ConvProblem, right: ConvGrads) -> Array:
    """Every 0 has the sign of a negative number."""
    return np.where(right.dx == 0, -0.0, right.dx)


@DW.values()
def dw_outputs_summed_backwards(problem: ConvProblem, right: ConvGrads) -> Array:
    """Samples are summed in the format of the result, or float32, the last one first."""
    narrow = problem.dtype.itemsize == 2
    x, dy, w = (
        array.astype(np.float32 if narrow else problem.dtype)
        for array in (problem.x, problem.dy, problem.w)
    )
    dw = np.zeros_like(w)
    for n in reversed(range(len(x))):
        one = replace(problem, x=x[n : n + 1], dy=dy[n : n + 1], w=w, b=None)
        dw += dw_of(one).astype(dw.dtype)
    return dw
