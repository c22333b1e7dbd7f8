"""Products of matrices, by pieces where OpenBLAS is faster on small ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from operator import iadd

import numpy as np

from reference.problem import Array

_SMALL = 10**6  # multiply-adds up to which OpenBLAS has kernels that do without packing
_LONG = 112  # terms that a product adds up fast, if that is not too little work
_LEAST = 64  # rows that such a product is worth it for


def multiply_adds(y: Array, w: Array) -> int:
    """Of a convolution that gives y (N, *O, F) with w (*K, C/groups, F)."""
    return y.size * math.prod(w.shape[:-1])


def multiply(a: Array, b: Array, out: Array, *, cut: bool = True) -> None:
    """`out` (M, B) = a (M, A) @ b (A, B), by pieces of M; all three are C-contiguous but for b."""
    done = 0
    if cut and (pieces := _pieces(len(a), b.size)):
        done = math.prod(pieces)
        np.matmul(a[:done].reshape(*pieces, -1), b, out=out[:done].reshape(*pieces, -1))
    if done < len(a):
        np.matmul(a[done:], b, out=out[done:])


def contract(a: Array, b: Array, *, cut: bool = True) -> Array:
    """a^T @ b, (A, B), of C-contiguous a (M, A) and b (M, B), by pieces of M."""
    pieces = _pieces(len(a), a.shape[1] * b.shape[1], is_sum=True) if cut else None
    if not pieces:
        return a.T @ b
    done = math.prod(pieces)
    a_pieces, b_pieces = (array[:done].reshape(*pieces, -1) for array in (a, b))
    product: Array = np.add.reduce(a_pieces.swapaxes(1, 2) @ b_pieces, axis=0, dtype=a.dtype)
    return product + a[done:].T @ b[done:] if done < len(a) else product


def is_narrow(each: int) -> bool:
    """Whether a product of so many multiply-adds a row is small with enough of them."""
    return each * _LEAST <= _SMALL


def _pieces(rows: int, each: int, *, is_sum: bool = False) -> tuple[int, int] | None:
    """How many products of how many rows, of `each` multiply-adds, are small; None if no good."""
    most = _SMALL // each if each else rows
    if is_sum:
        most = min(most, max(_LONG, most // 10))
    if most >= rows or not is_narrow(each):
        return None
    count = -(-rows // most)
    return count, rows // count


def as_rows(array: Array) -> Array:
    """(*M, A) as a matrix (prod(M), A), without a copy where that is possible."""
    return array.reshape(-1, array.shape[-1])


def total(parts: Iterator[Array]) -> Array:
    """Of one part at least; into the first, which must be nobody else's."""
    return reduce(iadd, parts)
