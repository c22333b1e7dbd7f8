"""Products of matrices, by pieces where OpenBLAS is faster on small ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from reference.problem import Array, Size

_SMALL = 10**6  # multiply-adds up to which OpenBLAS has kernels that do without packing
_LONG = 112  # terms that a product adds up fast, if that is not too little work
_LEAST = 64  # rows that such a product is worth it for


def multiply(a: Array, b: Array, out: Array, *, cut: bool = True) -> None:
    """`out` (M, B) = a (M, A) @ b (A, B), by pieces of M; all three are C-contiguous but for b."""
    pieces = _pieces(len(a), b.size, False) if cut else None
    if not pieces:
        np.matmul(a, b, out=out)
        return
    done, shape = pieces
    np.matmul(a[:done].reshape(shape), b, out=out[:done].reshape(shape))
    if done < len(a):
        np.matmul(a[done:], b, out=out[done:])


def contract(a: Array, b: Array, *, cut: bool = True) -> Array:
    """a^T @ b, (A, B), of C-contiguous a (M, A) and b (M, B), by pieces of M."""
    pieces = _pieces(len(a), a.shape[1] * b.shape[1], True) if cut else None
    if not pieces:
        return matmul_of_transpose(a, b)
    done, shape = pieces
    products = matmul_of_transpose(a[:done].reshape(shape), b[:done].reshape(shape))
    product: Array = np.add.reduce(products, axis=0, dtype=a.dtype)
    return product + matmul_of_transpose(a[done:], b[done:]) if done < len(a) else product


def matmul_of_transpose(a: Array, b: Array) -> Array:
    """a^T @ b of the last two axes; of one row each, which NumPy does not give to BLAS, a^T * b."""
    transpose = a.swapaxes(-1, -2)
    return transpose * b if b.shape[-2] == 1 else transpose @ b


def shifts_multiplier(rows: int, each: int, *, cut: bool = True) -> Callable[..., None]:
    """What makes `out` (N, M, B) the sum over K of a (N, K, M, A) @ b (K, A, B), of these three.

    By pieces of M, of which there are so many `rows`; `each` is A * B.
    """
    pieces = _pieces(rows, each, False) if cut else None
    if not pieces:
        return lambda a, b, out: _add_taps(a @ b, out)
    done, shape = pieces

    def by_pieces(a: Array, b: Array, out: Array) -> None:
        images, taps = a.shape[:2]
        parts = a[:, :, :done].reshape(images, taps, *shape)
        _add_taps(parts @ b[:, None], out[:, :done].reshape(images, *shape))
        if done < rows:
            _add_taps(a[:, :, done:] @ b, out[:, done:])

    return by_pieces


def _add_taps(products: Array, out: Array) -> None:
    """`out` (N, ...) = the sum over K of `products` (N, K, ...): np.add.reduce would copy first."""
    if products.shape[1] == 1:
        out[...] = products[:, 0]
        return
    np.add(products[:, 0], products[:, 1], out=out)
    for tap in range(2, products.shape[1]):
        out += products[:, tap]


def shifts_contractor(rows: int, each: int, *, cut: bool = True) -> Callable[[Array, Array], Array]:
    """What gives the sum over N of a^T @ b, (K, A, B), of a (N, M, A) and b (N, K, M, B).

    By pieces of M, of which there are so many `rows`; `each` is A * B.
    """
    pieces = cut and _pieces(rows, each, False) and _pieces(rows, each, True)
    if not pieces:
        return _contract_images
    done, (count, *shape) = pieces

    def by_pieces(a: Array, b: Array) -> Array:
        images, taps, _, width = b.shape
        a_pieces = a[:, :done].reshape(images, count, 1, *shape)
        b_pieces = b[:, :, :done].reshape(images, taps, count, *shape).swapaxes(1, 2)
        products = matmul_of_transpose(a_pieces, b_pieces).reshape(images * count, taps, -1, width)
        product: Array = np.add.reduce(products, axis=0, dtype=a.dtype)
        if done < rows:
            product += _contract_images(a[:, done:], b[:, :, done:])
        return product

    return by_pieces


def _contract_images(a: Array, b: Array) -> Array:
    products = matmul_of_transpose(a[:, None], b)
    if len(products) == 1:
        first: Array = products[0]
        return first
    return np.asarray(np.add.reduce(products, axis=0, dtype=a.dtype))


def is_narrow(each: int) -> bool:
    """Whether a product of so many multiply-adds a row is small with enough of them."""
    return each * _LEAST <= _SMALL


@lru_cache(maxsize=4096)
def _pieces(rows: int, each: int, is_sum: bool) -> tuple[int, Size] | None:
    """How many of the rows, of `each` multiply-adds, make pieces, and their shape (count, M, -1).

    None if small products are no good.
    """
    most = _SMALL // each if each else rows
    if is_sum:
        most = min(most, max(_LONG, most // 10))
    if most >= rows or not is_narrow(each):
        return None
    count = -(-rows // most)
    return count * (rows // count), (count, rows // count, -1)


def as_rows(array: Array) -> Array:
    """(*M, A) as a matrix (prod(M), A), without a copy where that is possible."""
    return array.reshape(-1, array.shape[-1])
