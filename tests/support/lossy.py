"""Oracles that lose a little: each is the reference but for less precision, or for one number.

Each is named like "tests.support.lossy:tf32_inputs" and can be verified like any oracle. None
claims y: the gradients alone must give it away. Those of `RIGHT` have no fault: nothing may be said
against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from oracles.protocol import Box, Domain
from reference import ConvGrads, ConvProblem, conv_backward
from reference.problem import Array

RIGHT = ("right", "right_float64", "fourier", "winograd")
PROMISED = ("tf32_promised", "tf32_cut_off")  # no faults: they say what they lose
BROKEN = ("bfloat16_as_tf32",)  # loses more than it says
FAULTS = (
    "tf32_inputs",
    "bfloat16_inputs",
    "split_bfloat16",
    "split_tf32",
    "dw_scaled",
    "dw_element_off",
    "float16_sums",
    "dx_sign_flipped",
    "float64_in_float32",
    "winograd_as_exact",
    "fourier_as_exact",
)

_FLOAT32 = Domain(Box(ranks=(1, 2, 3), dtypes=("float32",)))
_TF32 = Domain(*_FLOAT32.boxes, factors={"float32": "tfloat32"})
_PLAIN = Domain(Box(ranks=(1, 2, 3), dtypes=("float32",), groups=("one",)))
_FLOAT64 = Domain(Box(ranks=(1, 2, 3), dtypes=("float64",)))
_WINOGRAD = Box((2,), ("float32",), groups=("one",), stride="one", dilation="one")
_FOURIER = replace(_WINOGRAD, ranks=(1, 2))

# Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015, section 4.3: of one axis,
# for 4 outputs and 3 taps, the transforms of the input, of the kernel and of the output.
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_A = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)


@dataclass(frozen=True)
class Lossy:
    """An oracle whose gradients are those that `compute` returns, but db where there is no b."""

    compute: Callable[[ConvProblem], ConvGrads]
    domain: Domain = field(default=_FLOAT32)

    distribution = None

    @property
    def dtype(self) -> str:
        """What it computes."""
        return self.domain.boxes[0].dtypes[0]

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The gradients, without y."""
        with np.errstate(all="ignore"):
            grads = self.compute(problem)
        return grads if problem.b is not None else replace(grads, db=None)


def _lossy(domain: Domain) -> Callable[[Callable[[ConvProblem], ConvGrads]], Lossy]:
    return lambda compute: Lossy(compute, domain)


@Lossy
def right(problem: ConvProblem) -> ConvGrads:
    """Nothing is wrong with this one."""
    return conv_backward(problem.x, problem.w, problem.dy, problem.params)


@Lossy
def tf32_inputs(problem: ConvProblem) -> ConvGrads:
    """x, w and dy are rounded to TF32, 11 bits; sums are in float32."""
    return _of_inputs(problem, lambda array: _rounded(array, 11))


@Lossy
def bfloat16_inputs(problem: ConvProblem) -> ConvGrads:
    """x, w and dy are rounded to bfloat16, 8 bits; sums are in float32."""
    return _of_inputs(problem, lambda array: _rounded(array, 8))


@Lossy
def split_bfloat16(problem: ConvProblem) -> ConvGrads:
    """Operands are sums hi + lo of two bfloat16; hi*hi, hi*lo and lo*hi are summed, not lo*lo."""
    return _of_halves(problem, 8)


@Lossy
def split_tf32(problem: ConvProblem) -> ConvGrads:
    """The same with TF32."""
    return _of_halves(problem, 11)


@Lossy
def dw_scaled(problem: ConvProblem) -> ConvGrads:
    """dW is 1.001 times as large as it should be."""
    grads = right.compute(problem)
    return replace(grads, dw=grads.dw * np.float32(1.001))


@Lossy
def dw_element_off(problem: ConvProblem) -> ConvGrads:
    """The element in the middle of dW is too large by 1 %."""
    grads = right.compute(problem)
    grads.dw.flat[grads.dw.size // 2] *= np.float32(1.01)
    return grads


@_lossy(_PLAIN)
def float16_sums(problem: ConvProblem) -> ConvGrads:
    """Every product is added to a sum that is rounded to float16."""
    x, w, dy, params = problem.x, problem.w, problem.dy, problem.params
    padded = np.pad(x, ((0, 0), *params.padding, (0, 0)))
    dx, dw, db = (np.zeros(shape, np.float16) for shape in (padded.shape, w.shape, w.shape[-1:]))
    for tap in np.ndindex(*problem.kernel):
        starts = [k * d for k, d in zip(tap, params.dilation)]
        steps = zip(starts, dy.shape[1:-1], params.stride)
        cells = (slice(None), *(slice(k, k + (o - 1) * s + 1, s) for k, o, s in steps))
        for of_dy, of_w in zip(np.moveaxis(dy, -1, 0), w[tap].T):
            dx[cells] += of_dy[..., None] * of_w
        for of_x, of_dy in zip(padded[cells].reshape(-1, x.shape[-1]), dy.reshape(-1, len(db))):
            dw[tap] += of_x[:, None] * of_dy
    for of_dy in dy.reshape(-1, len(db)):
        db += of_dy
    dx = dx[_inside(problem)]
    return ConvGrads(dx.astype(x.dtype), dw.astype(x.dtype), db.astype(x.dtype))


@Lossy
def dx_sign_flipped(problem: ConvProblem) -> ConvGrads:
    """The element in the middle of dX has the other sign."""
    grads = right.compute(problem)
    grads.dx.flat[grads.dx.size // 2 : grads.dx.size // 2 + 1] *= -1
    return grads


@_lossy(_FLOAT64)
def float64_in_float32(problem: ConvProblem) -> ConvGrads:
    """float64 is computed in float32."""
    x, w, dy = (array.astype(np.float32) for array in (problem.x, problem.w, problem.dy))
    grads = conv_backward(x, w, dy, problem.params)
    dx, dw, db = (np.asarray(array, np.float64) for array in (grads.dx, grads.dw, grads.db))
    return ConvGrads(dx, dw, db)


def _winograd(problem: ConvProblem) -> ConvGrads:
    """Winograd's F(4x4, 3x3) in float32, transposed for dX and dW; else, kernels are not 3 x 3."""
    if problem.kernel != (3, 3):
        return right.compute(problem)
    rows, columns = (-(-size // 4) for size in problem.dy.shape[1:-1])  # of tiles, 4 x 4 outputs
    batch, channels, filters = problem.x.shape[0], *problem.w.shape[-2:]
    sizes = zip(problem.spatial, problem.params.padding, (rows, columns))
    x_fill = [(lo, 4 * tiles + 2 - size - lo) for size, (lo, _), tiles in sizes]
    dy_fill = [(0, -size % 4) for size in problem.dy.shape[1:-1]]
    x = np.pad(problem.x, ((0, 0), *x_fill, (0, 0)))
    dy = np.pad(problem.dy, ((0, 0), *dy_fill, (0, 0)))

    tiles = np.lib.stride_tricks.sliding_window_view(x, (6, 6), (1, 2))[:, ::4, ::4]
    of_x = np.einsum("ui,vj,nrqcij->uvnrqc", _B, _B, tiles, optimize=True)
    of_w = np.einsum("ui,vj,ijcf->uvcf", _G, _G, problem.w, optimize=True)
    outputs = dy.reshape(batch, rows, 4, columns, 4, filters)
    of_dy = np.einsum("iu,jv,nriqjf->uvnrqf", _A, _A, outputs, optimize=True)

    of_dx = (of_dy.reshape(6, 6, -1, filters) @ of_w.swapaxes(-1, -2)).reshape(of_x.shape)
    of_dw = of_x.reshape(6, 6, -1, channels).swapaxes(-1, -2) @ of_dy.reshape(6, 6, -1, filters)
    dw = np.einsum("ui,vj,uvcf->ijcf", _G, _G, of_dw, optimize=True)
    parts = np.einsum("ui,vj,uvnrqc->ijnrqc", _B, _B, of_dx, optimize=True)
    dx = np.zeros_like(x)
    for i, j in np.ndindex(6, 6):
        dx[:, i : i + 4 * rows - 3 : 4, j : j + 4 * columns - 3 : 4] += parts[i, j]
    return ConvGrads(dx[_inside(problem)], dw, right.compute(problem).db)


def _fourier(problem: ConvProblem) -> ConvGrads:
    """Products of discrete Fourier transforms, in float32."""
    params = problem.params
    padded = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    size, axes = padded.shape[1:-1], range(1, params.rank + 1)
    of_x = np.fft.rfftn(padded, size, axes)
    of_w = np.fft.rfftn(problem.w, size, range(params.rank))
    of_dy = np.fft.rfftn(problem.dy, size, axes)
    dx = np.fft.irfftn(np.einsum("n...f,...cf->n...c", of_dy, of_w), size, axes)
    of_dw = np.einsum("n...c,n...f->...cf", of_x, of_dy.conj())
    dw = np.fft.irfftn(of_dw, size, range(params.rank))[tuple(map(slice, problem.kernel))]
    return ConvGrads(dx[_inside(problem)], dw, right.compute(problem).db)


def _of_inputs(
    problem: ConvProblem,
    change: Callable[[Array], Array],
    change_dy: Callable[[Array], Array] | None = None,
) -> ConvGrads:
    """The gradients of changed x, w and dy, but db, which is a sum and no product, as it is."""
    x, w, dy = change(problem.x), change(problem.w), (change_dy or change)(problem.dy)
    grads = conv_backward(x, w, dy, problem.params)
    return replace(grads, db=right.compute(problem).db)


def _of_halves(problem: ConvProblem, bits: int) -> ConvGrads:
    """The gradients from operands in two halves of `bits` significant bits each."""

    def hi(array: Array) -> Array:
        return _rounded(array, bits)

    def lo(array: Array) -> Array:
        return _rounded(array - hi(array), bits)

    both, one, other = (_of_inputs(problem, *pair) for pair in ((hi, hi), (hi, lo), (lo, hi)))
    return replace(both, dx=both.dx + one.dx + other.dx, dw=both.dw + one.dw + other.dw)


def _rounded(array: Array, bits: int) -> Array:
    """float32 numbers to the nearest of `bits` significant bits, ties to even."""
    mantissa, exponent = np.frexp(array)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))


def _cut_off(array: Array, bits: int) -> Array:
    """float32 numbers without what is beyond `bits` significant bits, as matrix units read them."""
    mantissa, exponent = np.frexp(array)
    return np.asarray(np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits))


def _inside(problem: ConvProblem) -> tuple[slice, ...]:
    """Where in a padded input the input is."""
    sizes = zip(problem.spatial, problem.params.padding)
    return (slice(None), *(slice(lo, lo + size) for size, (lo, _) in sizes))


tf32_promised = Lossy(tf32_inputs.compute, _TF32)
tf32_cut_off = Lossy(lambda problem: _of_inputs(problem, lambda a: _cut_off(a, 11)), _TF32)
bfloat16_as_tf32 = Lossy(bfloat16_inputs.compute, _TF32)
right_float64 = Lossy(right.compute, _FLOAT64)
fourier = Lossy(_fourier, Domain(_FOURIER, exact=False))
fourier_as_exact = Lossy(_fourier, Domain(_FOURIER))
winograd = Lossy(_winograd, Domain(_WINOGRAD, exact=False))
winograd_as_exact = Lossy(_winograd, Domain(_WINOGRAD))
