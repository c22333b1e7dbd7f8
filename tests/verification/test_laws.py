"""What every convolution gradient must satisfy, whoever computes it: no oracle is asked.

The data are small integers, so both sides of each law are exact and compared with `==`; one law is
about NaN and Inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.compare import exact_grads
from oracles.protocol import Box, Domain
from reference import (
    ConvGrads,
    ConvParams,
    ConvProblem,
    conv_backward,
    conv_forward,
    naive_conv_backward,
    naive_conv_forward,
)
from reference.problem import Array
from tests.support.strategies import integers, problems, special_problems

BOX = Box(ranks=(1, 2, 3), dtypes=("float32", "float64"))
ANY = Domain(BOX)
FEW = Domain(replace(BOX, max_elements=1024))
each_rank = pytest.mark.parametrize("rank", [1, 2, 3])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def backward(problem: ConvProblem, *, dy: Array | None = None) -> ConvGrads:
    """The reference's gradients of `problem`, or of it with another dy."""
    return conv_backward(problem.x, problem.w, problem.dy if dy is None else dy, problem.params)


def same(got: Array, want: Array) -> bool:
    """Equal in shape, dtype and every value."""
    return got.shape == want.shape and got.dtype == want.dtype and bool(np.all(got == want))


def same_grads(got: ConvGrads, want: ConvGrads) -> bool:
    """Equal in dx, dw and db."""
    return all(same(getattr(got, name), getattr(want, name)) for name in ("dx", "dw", "db"))


def check(law: Callable[[ConvProblem], None], rank: int, dtype: str, domain: Domain = ANY) -> None:
    """Run `law` on random problems, of FEW elements where it asks slow, plain loops."""
    given(problems(domain, rank, dtype))(law)()


@each_rank
@each_dtype
def test_conv_equals_naive(rank: int, dtype: str) -> None:
    """The vectorised reference and the plain loops agree bit for bit, forward and backward."""

    def law(p: ConvProblem) -> None:
        assert same_grads(backward(p), naive_conv_backward(p.x, p.w, p.dy, p.params))
        y = conv_forward(p.x, p.w, p.b, p.params)
        assert same(y, naive_conv_forward(p.x, p.w, p.b, p.params))

    check(law, rank, dtype, FEW)


@each_rank
@each_dtype
def test_conv_equals_naive_on_special_values(rank: int, dtype: str) -> None:
    """NaN and Inf in x, w or dy reach the same elements in both, and no others."""

    @given(special_problems(FEW, rank, dtype))
    def law(p: ConvProblem) -> None:
        vectorised, loops = backward(p), naive_conv_backward(p.x, p.w, p.dy, p.params)
        for name in ("dx", "dw", "db"):
            np.testing.assert_array_equal(getattr(vectorised, name), getattr(loops, name))
        y = conv_forward(p.x, p.w, p.b, p.params)
        np.testing.assert_array_equal(y, naive_conv_forward(p.x, p.w, p.b, p.params))

    law()


@each_rank
def test_conv_equals_rational_arithmetic(rank: int) -> None:
    """No rounding happens on the integer data: the results are those of rational arithmetic."""

    def law(p: ConvProblem) -> None:
        exact = exact_grads(p)
        grads = backward(p)
        assert np.all(grads.dx == exact.dx)
        assert np.all(grads.dw == exact.dw)
        assert np.all(conv_forward(p.x, p.w, p.b, p.params) == exact.y)

    check(law, rank, "float32", FEW)


@each_rank
def test_adjoint_identities(rank: int) -> None:
    """<dy, conv(x, w)> = <dx, x> = <dw, w>: both gradients are the adjoints of the forward."""

    def law(p: ConvProblem) -> None:
        inner = np.sum(p.dy * conv_forward(p.x, p.w, None, p.params))
        grads = backward(p)
        assert np.sum(grads.dx * p.x) == inner
        assert np.sum(grads.dw * p.w) == inner

    check(law, rank, "float64")


@each_rank
def test_linear_in_dy(rank: int) -> None:
    """Gradients for 3 dy1 - 2 dy2 are 3 times those for dy1 minus twice those for dy2."""

    @given(st.data())
    def law(data: DataObject) -> None:
        p = data.draw(problems(ANY, rank, "float32"))
        other = integers(data.draw, p.dy.shape, "float32", "dy2")
        both = backward(p, dy=3 * p.dy - 2 * other)
        first, second = backward(p), backward(p, dy=other)
        for name in ("dx", "dw", "db"):
            combined = 3 * getattr(first, name) - 2 * getattr(second, name)
            assert same(getattr(both, name), combined)

    law()


@each_rank
def test_zero_dy_gives_zero(rank: int) -> None:
    """No gradient comes out of none."""

    def law(p: ConvProblem) -> None:
        grads = backward(p, dy=np.zeros_like(p.dy))
        assert not np.any(grads.dx)
        assert not np.any(grads.dw)
        assert not np.any(grads.db)

    check(law, rank, "float32")


@each_rank
def test_batch_is_additive(rank: int) -> None:
    """Each sample has its own dX; dW and db are the sums over the samples."""

    def law(p: ConvProblem) -> None:
        whole = backward(p)
        parts = [
            conv_backward(p.x[n : n + 1], p.w, p.dy[n : n + 1], p.params)
            for n in range(p.x.shape[0])
        ]
        for n, part in enumerate(parts):
            assert same(whole.dx[n : n + 1], part.dx)
        assert same(whole.dw, sum((part.dw for part in parts), np.zeros_like(p.w)))
        assert same(whole.db, sum((part.db for part in parts), np.zeros_like(whole.db)))

    check(law, rank, "float32")


@each_rank
def test_groups_are_a_block_diagonal_kernel(rank: int) -> None:
    """A grouped kernel is a dense one that is zero between groups: dX agrees, dW on the blocks."""

    def law(p: ConvProblem) -> None:
        groups = p.params.groups
        group_in, group_out = p.w.shape[-2], p.w.shape[-1] // groups
        blocks = [
            np.s_[..., g * group_in : (g + 1) * group_in, g * group_out : (g + 1) * group_out]
            for g in range(groups)
        ]
        dense_w = np.zeros((*p.kernel, p.x.shape[-1], p.w.shape[-1]), p.dtype)
        for g, block in enumerate(blocks):
            dense_w[block] = p.w[..., g * group_out : (g + 1) * group_out]
        dense = ConvParams(p.params.stride, p.params.padding, p.params.dilation)
        grouped_grads = backward(p)
        dense_grads = conv_backward(p.x, dense_w, p.dy, dense)
        assert same(grouped_grads.dx, dense_grads.dx)
        assert same(grouped_grads.db, dense_grads.db)
        on_blocks = np.concatenate([dense_grads.dw[block] for block in blocks], axis=-1)
        assert same(grouped_grads.dw, on_blocks)

    check(law, rank, "float32")


@each_rank
def test_dilation_is_a_zero_stuffed_kernel(rank: int) -> None:
    """A dilated kernel is a plain one with zeros between its taps: dX agrees, dW on the taps."""

    def law(p: ConvProblem) -> None:
        taps = tuple(slice(None, None, d) for d in p.params.dilation)
        stuffed_w = np.zeros((*p.extent, *p.w.shape[-2:]), p.dtype)
        stuffed_w[taps] = p.w
        plain = ConvParams(p.params.stride, p.params.padding, (1,) * rank, p.params.groups)
        dilated_grads = backward(p)
        plain_grads = conv_backward(p.x, stuffed_w, p.dy, plain)
        assert same(dilated_grads.dx, plain_grads.dx)
        assert same(dilated_grads.dw, plain_grads.dw[taps])

    check(law, rank, "float32")


@each_rank
def test_padding_is_zeros_around_the_input(rank: int) -> None:
    """Padding is the same as an input with zeros around it: dX is cut out of that one's."""

    def law(p: ConvProblem) -> None:
        padded_x = np.pad(p.x, ((0, 0), *p.params.padding, (0, 0)))
        valid = ConvParams(p.params.stride, ((0, 0),) * rank, p.params.dilation, p.params.groups)
        grads = backward(p)
        padded_grads = conv_backward(padded_x, p.w, p.dy, valid)
        inside = tuple(slice(lo, lo + s) for s, (lo, _) in zip(p.spatial, p.params.padding))
        assert same(grads.dx, padded_grads.dx[(slice(None), *inside)])
        assert same(grads.dw, padded_grads.dw)

    check(law, rank, "float32")


@each_rank
def test_translation(rank: int) -> None:
    """Shifting dy by one output, into a new first one that is zero, shifts dX by one stride."""

    def law(p: ConvProblem) -> None:
        stride = p.params.stride
        later = [(s, 0) for s in stride]
        longer_x = np.pad(p.x, ((0, 0), *later, (0, 0)))
        longer_dy = np.pad(p.dy, ((0, 0), *((1, 0),) * rank, (0, 0)))
        shifted = conv_backward(longer_x, p.w, longer_dy, p.params)
        grads = backward(p)
        # What reached the low padding before now lies in the cells that were added in front of x.
        moved = (slice(None), *(slice(s, None) for s in stride))
        assert same(shifted.dx[moved], grads.dx)
        assert same(shifted.dw, grads.dw)

    check(law, rank, "float32")


@each_rank
def test_input_that_no_window_reaches_has_no_gradient(rank: int) -> None:
    """DX is exactly zero where no tap of any window lies, and has the whole input's shape."""

    def law(p: ConvProblem) -> None:
        ones = ConvProblem(np.ones_like(p.x), np.ones_like(p.w), None, np.ones_like(p.dy), p.params)
        reached = backward(ones).dx != 0
        by_axis = np.ones(p.spatial, bool)
        for axis in range(rank):
            s, d, (lo, _) = p.params.stride[axis], p.params.dilation[axis], p.params.padding[axis]
            taps = {
                o * s + k * d - lo
                for o in range(p.dy.shape[1 + axis])
                for k in range(p.kernel[axis])
            }
            seen = np.array([cell in taps for cell in range(p.spatial[axis])])
            by_axis &= seen.reshape([-1 if a == axis else 1 for a in range(rank)])
        assert np.all(reached == by_axis[None, ..., None])
        assert not np.any(backward(p).dx[~reached])

    check(law, rank, "float32")
