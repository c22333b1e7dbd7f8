"""Faults of db."""

from __future__ import annotations

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem
from tests.support.mutants.fault import Fault, garbage, group_out, read_as_dense
from tests.support.mutants.loops import NOWHERE, cells

DB = Fault(("db",))
NARROW = Domain(Box(ranks=(1, 2, 3), dtypes=("float16", "bfloat16")))


def _summed(dy: Array) -> Array:
    """db (F,) of dy (..., F)."""
    return np.asarray(dy.astype(np.float64).sum(axis=tuple(range(dy.ndim - 1))))


@DB.values()
def db_first_sample_only(problem: ConvProblem, right: ConvGrads) -> Array:
    """Only the first sample is summed."""
    return _summed(problem.dy[:1])


@DB.values("mmcv#565")
def db_last_partial_batch_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """A batch is split in two halves, which leaves out the last sample of an odd one."""
    batch = len(problem.dy)
    return _summed(problem.dy[: batch // 2 * 2 if batch > 1 else batch])


@DB.values("pytorch#3303")
def db_expanded_gy_counted_once(problem: ConvProblem, right: ConvGrads) -> Array:
    """Axes along which dy is expanded are summed once."""
    steps = (slice(1 if stride == 0 else None) for stride in problem.dy.strides[:-1])
    return _summed(problem.dy[tuple(steps)])


@DB.values()
def db_dy_read_as_dense(problem: ConvProblem, right: ConvGrads) -> Array:
    """dy is read in the order in which it lies in memory."""
    return _summed(read_as_dense(problem.dy))


@DB.values("pytorch#68048", domain=NARROW)
def db_low_precision_running_sum(problem: ConvProblem, right: ConvGrads) -> Array:
    """The sum is kept in float16 or bfloat16, where it stalls once it outgrows what is added."""
    db = np.zeros_like(problem.dy, shape=problem.dy.shape[-1:])
    for dy in problem.dy.reshape(-1, len(db)):
        db += dy
    return db


@DB.values()
def db_only_windows_inside(problem: ConvProblem, right: ConvGrads) -> Array:
    """Outputs whose window lies wholly in the padding are not summed."""
    is_inside = (cells(problem) != NOWHERE).any(axis=1).reshape(problem.dy.shape[1:-1])
    return _summed(np.where(is_inside[..., None], problem.dy, 0))


@DB.values()
def db_divided_by_batch(problem: ConvProblem, right: ConvGrads) -> Array:
    """db is a mean over samples."""
    return _summed(problem.dy) / max(len(problem.dy), 1)


@DB.values()
def db_last_column_lost(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of several columns of outputs the last is not summed."""
    columns = problem.dy.shape[-2]
    return _summed(problem.dy[..., : max(columns - 1, min(columns, 1)), :])


@DB.values(needs="more than 32 outputs")
def db_last_chunk_of_split_sum_lost(problem: ConvProblem, right: ConvGrads) -> Array:
    """Samples and outputs are summed in chunks of 32, and the rest is left out."""
    dy = problem.dy.reshape(-1, problem.dy.shape[-1])
    return _summed(dy[: len(dy) // 32 * 32 or len(dy)])


@DB.values()
def db_groups_interleaved(problem: ConvProblem, right: ConvGrads) -> Array:
    """Filters are stored with the groups in the place of the filters of a group."""
    return _summed(problem.dy).reshape(-1, group_out(problem)).T.ravel()


@DB.values()
def db_first_group_only(problem: ConvProblem, right: ConvGrads) -> Array:
    """The db of every group but the first is zero."""
    is_first = np.arange(problem.dy.shape[-1]) < group_out(problem)
    return np.where(is_first, _summed(problem.dy), 0)


@DB.values(needs="more than 8 filters")
def db_filter_tail_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of more than 8 filters, those beyond the last multiple of 8 are not summed."""
    count = problem.dy.shape[-1]
    return np.where(np.arange(count) < (count // 8 * 8 or count), _summed(problem.dy), 0)


@DB.values(where=lambda problem: len(problem.x) == 0)
def db_uninitialised_when_empty(problem: ConvProblem, right: ConvGrads) -> Array:
    """With an empty batch db keeps what was in memory."""
    return garbage(problem.dy[:0].sum(axis=tuple(range(problem.dy.ndim - 1))))


@DB.forms("classic")
def db_keepdims(problem: ConvProblem, right: ConvGrads) -> Array:
    """The axes that are summed over are kept."""
    return np.asarray(problem.dy.sum(axis=tuple(range(problem.dy.ndim - 1)), keepdims=True))


@DB.forms("AiDotNet#235", "burn#248")
def db_batch_not_reduced(problem: ConvProblem, right: ConvGrads) -> Array:
    """Every sample has a db."""
    return np.asarray(problem.dy.sum(axis=tuple(range(1, problem.dy.ndim - 1))))
