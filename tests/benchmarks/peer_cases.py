"""The cases with which PyTorch, JAX, TensorFlow and ONNX test their convolutions, as problems.

PyTorch's, JAX's and TensorFlow's are shapes and parameters from their tests, which are not part of
what is installed of them, or do not import without more; ONNX's come with it, data and all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reference import ConvGrads, ConvParams, ConvProblem, conv_backward, conv_forward, output_size
from reference.problem import Array, Padding, Size

Fill = Callable[[np.random.Generator, Size], Array]


@dataclass(frozen=True, eq=False)
class Case:
    """A problem of a peer's tests: x (N, *S, C), w (*K, C/groups, F), its data made by `fill`.

    `inputs` are those whose gradients the test looks at, `tolerance` what it allows, where that is
    not its check's default.
    """

    name: str
    x: Size
    w: Size
    params: ConvParams
    inputs: tuple[str, ...]
    dtype: str
    fill: Fill
    tolerance: float | None = None
    given: ConvProblem | None = None

    @cached_property
    def problem(self) -> ConvProblem:
        """With data of the peer's kind, of a fixed seed."""
        if self.given is not None:
            return self.given
        random = np.random.default_rng(0)
        out = output_size(self.x[1:-1], self.w[:-2], self.params)
        shapes = (self.x, self.w, self.w[-1:], (self.x[0], *out, self.w[-1]))
        x, w, b, dy = (self.fill(random, shape).astype(self.dtype) for shape in shapes)
        return ConvProblem(x, w, b if "b" in self.inputs else None, dy, self.params)

    @cached_property
    def right(self) -> ConvGrads:
        """The right gradients and y, rounded once."""
        return rounded_once(self.problem)


def rounded_once(problem: ConvProblem) -> ConvGrads:
    """The gradients and y, from longdouble or float64."""
    higher = np.longdouble if problem.dtype == "float64" else np.float64
    x, w, dy = (array.astype(higher) for array in (problem.x, problem.w, problem.dy))
    b = None if problem.b is None else problem.b.astype(higher)
    grads = conv_backward(x, w, dy, problem.params)
    arrays = (grads.dx, grads.dw, grads.db, conv_forward(x, w, b, problem.params))
    dx, dw, db, y = (np.asarray(array, problem.dtype) for array in arrays)
    return ConvGrads(dx, dw, None if b is None else db, y)


def normal(random: np.random.Generator, shape: Size) -> Array:
    """What most people test with."""
    return random.standard_normal(shape)


def by_hand() -> Iterator[Case]:
    """What most projects have: 2-D, one group, SAME, stride 1 or 2, in float64."""
    for x, w, stride in (
        ((2, 5, 5, 3), (3, 3, 3, 4), 1),
        ((1, 8, 8, 1), (3, 3, 1, 1), 1),
        ((4, 6, 6, 2), (1, 1, 2, 3), 1),
        ((2, 8, 8, 3), (3, 3, 3, 4), 2),
        ((2, 7, 7, 3), (3, 3, 3, 4), 2),
        ((2, 12, 12, 3), (5, 5, 3, 6), 1),
        ((2, 16, 16, 3), (3, 3, 3, 8), 1),
        ((2, 28, 28, 1), (5, 5, 1, 6), 1),
        ((4, 32, 32, 3), (3, 3, 3, 16), 2),
    ):
        params = ConvParams.of(x, w, stride=stride, padding="SAME")
        name = f"x {x}, w {w}, stride {stride}"
        yield Case(name, x, w, params, ("x", "w", "b"), "float64", normal)


def pytorch(dtype: str) -> Iterator[Case]:
    """The sample inputs of conv1d, conv2d and conv3d, each with its batch and without."""
    for function, samples in _PYTORCH.items():
        for number, (channels_first, weight, has_bias, options) in enumerate(samples):
            w = (*weight[2:], weight[1], weight[0])
            batches = dict.fromkeys((channels_first[0], 1))
            for batch in batches:
                x = (batch, *channels_first[2:], channels_first[1])
                params = _pytorch_params(x, w, **options)
                unbatched = " unbatched" if batch != channels_first[0] else ""
                inputs = ("x", "w", "b")[: 2 + has_bias]
                name = f"{function}[{number}]{unbatched} {dtype}"
                yield Case(name, x, w, params, inputs, dtype, _pytorch_fill)


def _pytorch_params(x: Size, w: Size, padding: Any = 0, **options: Any) -> ConvParams:
    """`padding` "same" is with stride 1 only, and then what SAME is."""
    short = padding.upper() if isinstance(padding, str) else padding
    options = {name: value if value != (2,) else 2 for name, value in options.items()}
    return ConvParams.of(x, w, padding=short, **options)


def _pytorch_fill(random: np.random.Generator, shape: Size) -> Array:
    """torch.testing.make_tensor's range for floats."""
    return random.uniform(-9, 9, shape)


# torch/testing/_internal/common_methods_invocations.py of PyTorch 2.13, sample_inputs_conv1d, 2d
# and 3d: shapes of input and weight, channels first, whether there is a bias, and the arguments.
_PYTORCH: dict[str, list[tuple[Size, Size, bool, dict[str, Any]]]] = {
    "conv1d": [
        ((1, 3, 4), (3, 3, 3), True, {"stride": 2, "padding": 2}),
        ((2, 4, 8), (2, 2, 3), True, {"stride": 3, "padding": 1, "groups": 2, "dilation": 2}),
        ((1, 4, 5), (1, 4, 3), False, {"stride": 2, "padding": "valid"}),
        ((2, 2, 4), (2, 1, 4), True, {"padding": "same", "groups": 2, "dilation": 2}),
        ((1, 4, 5), (3, 4, 3), False, {}),
    ],
    "conv2d": [
        ((1, 3, 4, 4), (3, 3, 3, 3), True, {"stride": 2, "padding": 2}),
        (
            (2, 4, 8, 8),
            (2, 2, 3, 3),
            True,
            {"stride": (3, 2), "padding": (2, 1), "groups": 2, "dilation": (4, 4)},
        ),
        ((1, 4, 5, 5), (1, 4, 2, 3), True, {"stride": 2, "padding": 1, "dilation": (2, 3)}),
        ((1, 4, 5, 5), (1, 4, 2, 3), True, {"stride": 2, "padding": 1, "dilation": (2, 3)}),
        ((1, 2, 4, 3), (4, 2, 3, 4), False, {"stride": 2, "padding": 1}),
        ((1, 4, 5, 5), (1, 4, 2, 3), True, {"stride": 2, "padding": "valid"}),
        ((1, 4, 5, 5), (1, 4, 2, 3), True, {"padding": "same", "dilation": 3}),
        ((2, 4, 6, 6), (4, 1, 3, 3), True, {"groups": 4}),
        ((2, 4, 6, 6), (8, 1, 3, 3), True, {"groups": 4}),
        ((2, 4, 6, 6), (8, 1, 3, 3), False, {"groups": 4}),
        ((2, 4, 6, 6), (4, 1, 3, 3), True, {"groups": 4, "stride": (3, 2)}),
        ((2, 4, 6, 6), (4, 1, 3, 3), True, {"groups": 4, "padding": (1, 1)}),
        ((2, 4, 5, 5), (4, 1, 2, 2), True, {"groups": 4, "dilation": (2, 2)}),
        ((2, 4, 6, 5), (6, 2, 3, 2), True, {"groups": 2}),
        ((1, 4, 5, 5), (3, 4, 3, 3), False, {}),
    ],
    "conv3d": [
        ((1, 1, 4, 4, 4), (1, 1, 1, 1, 1), True, {"padding": "same"}),
        ((1, 1, 4, 4, 4), (1, 1, 4, 4, 4), True, {"stride": 2}),
        ((1, 1, 5, 5, 5), (1, 1, 3, 3, 3), True, {"dilation": 2}),
        ((1, 1, 1, 1, 10), (1, 1, 1, 1, 4), False, {"padding": "valid"}),
        ((1, 1, 10, 11, 12), (1, 1, 1, 2, 5), False, {"padding": "same"}),
        ((1, 1, 10, 11, 12), (1, 1, 1, 2, 5), False, {"padding": "same", "dilation": 2}),
        ((1, 1, 10, 11, 12), (1, 1, 4, 4, 4), False, {"padding": "same", "dilation": 3}),
        ((1, 1, 1, 1, 10), (1, 1, 1, 1, 4), False, {"padding": "valid"}),
        ((3, 9, 3, 1, 9), (3, 3, 3, 1, 9), True, {"groups": 3}),
        ((3, 9, 3, 1, 9), (3, 3, 3, 1, 9), True, {"stride": 2, "groups": 3}),
    ],
}


def jax(dtype: str) -> Iterator[Case]:
    """Those of tests/lax_autodiff_test.py that are convolutions as we have them.

    Left out: a dilated input, negative padding, groups of the batch, sizes of 0.
    """
    shapes = (((b, 3, 4, i), (1, 2, i, j)) for b, i, j in itertools.product((2, 3), repeat=3))
    planes = [(x, w, stride) for x, w in shapes for stride in ((1, 1), (1, 2), (2, 1))]
    x, w, stride = line = ((4, 1, 2), (1, 2, 3), (1,))
    found = [
        ("testConvGrad", x, w, ConvParams.of(x, w, stride=stride, padding=padding))
        for (x, w, stride), padding in itertools.product([*planes, line], ("VALID", "SAME"))
    ]
    found += [
        ("testConvWithGeneralPaddingGrad", x, w, ConvParams(stride, padding))
        for (x, w, stride), padding in itertools.product(planes, _JAX_PADDINGS)
    ]
    found += [
        ("testConvWithGeneralPaddingGrad", x, w, ConvParams(stride, padding, dilation))
        for padding, dilation in itertools.product((((1, 1),), ((0, 0),)), ((1,), (2,)))
    ]
    for groups, (b, i, j) in itertools.product((1, 2), itertools.product((1, 2), repeat=3)):
        x, w = (b, 6, 7, i * groups), (1, 2, i, j * groups)
        found += [
            ("testConvGeneralDilatedGrad", x, w, ConvParams(stride, padding, dilation, groups))
            for stride, dilation, padding in itertools.product(
                ((1, 1), (1, 2), (2, 1)), ((1, 1), (2, 2)), _JAX_PADDINGS
            )
        ]
    for number, (test, x, w, params) in enumerate(found):
        fill, tolerance = _JAX_TESTS[test]
        if test == "testConvGeneralDilatedGrad" and dtype == "float64":
            tolerance = None
        for one in ("x", "w"):  # check_grads_bilinear: one after the other
            name = f"{test}[{number}] {one} {dtype}"
            yield Case(name, x, w, params, (one,), dtype, fill, tolerance)


_JAX_PADDINGS: tuple[Padding, ...] = (((0, 0), (0, 0)), ((1, 0), (0, 1)))
_JAX_TESTS: dict[str, tuple[Fill, float | None]] = {  # rand_small, rand_default; atol and rtol
    "testConvGrad": (lambda random, shape: 1e-3 * normal(random, shape), 1e-2),
    "testConvWithGeneralPaddingGrad": (lambda random, shape: 1e-3 * normal(random, shape), 1e-2),
    "testConvGeneralDilatedGrad": (lambda random, shape: 3 * normal(random, shape), 1e-3),
}


def tensorflow() -> Iterator[Case]:
    """The gradient tests of conv_ops_test.py and conv_ops_3d_test.py."""
    for test, x, w, stride, padding, *tolerance in _TENSORFLOW:
        params = ConvParams.of(x, w, stride=stride, padding=padding)
        one = "x" if test.startswith("Input") else "w"
        for dtype, allowed in (("float64", 1e-8), ("float32", 5e-3)):
            if len(x) == 5:
                name = f"conv3d test{test} {dtype}"
                yield Case(name, x, w, params, (one,), dtype, _tensorflow_fill, allowed)
            elif dtype == "float32":  # float64 is left out there, too
                [allowed] = tolerance or [0.003]
                name = f"conv2d test{test} {dtype}"
                yield Case(name, x, w, params, (one,), dtype, _tensorflow_fill, allowed)


def _tensorflow_fill(random: np.random.Generator, shape: Size) -> Array:
    """What is not differentiated is 0, 1/n, 2/n, and what is, is as random as this is not."""
    del random
    size = int(np.prod(shape))
    return np.arange(size).reshape(shape) / size


# tensorflow/python/kernel_tests/nn_ops/conv_ops_test.py and conv_ops_3d_test.py of TensorFlow 2:
# x, w, stride, padding, and an error other than 0.003. Without those that need a GPU.
_TENSORFLOW: list[tuple[Any, ...]] = [
    ("InputGradientValidPaddingStrideOne", (2, 5, 4, 2), (3, 3, 2, 3), 1, "VALID"),
    ("FilterGradientValidPaddingStrideOne", (4, 6, 5, 2), (2, 2, 2, 3), 1, "VALID"),
    ("InputGradientValidPaddingStrideTwo", (2, 4, 5, 2), (3, 3, 2, 3), 2, "VALID"),
    ("FilterGradientValidPaddingStrideTwo", (4, 6, 5, 2), (2, 2, 2, 3), 2, "VALID"),
    ("InputGradientValidPaddingStrideThree", (2, 7, 6, 4), (3, 3, 4, 5), 3, "VALID"),
    ("FilterGradientValidPaddingStrideThree", (2, 8, 7, 2), (4, 4, 2, 3), 3, "VALID"),
    ("InputGradientSamePaddingStrideOne", (2, 7, 6, 2), (3, 3, 2, 3), 1, "SAME"),
    ("FilterGradientSamePaddingStrideOne", (4, 6, 5, 2), (2, 2, 2, 3), 1, "SAME"),
    ("InputGradientSamePaddingStrideTwo", (2, 5, 4, 3), (3, 3, 3, 3), 2, "SAME"),
    ("FilterGradientSamePaddingStrideTwo", (4, 6, 5, 2), (2, 2, 2, 3), 2, "SAME"),
    ("InputGradientSamePaddingStrideThree", (2, 7, 6, 4), (3, 3, 4, 5), 3, "SAME"),
    ("FilterGradientSamePaddingStrideThree", (2, 8, 7, 2), (4, 4, 2, 3), 3, "SAME"),
    ("FilterGradientSamePaddingStride2x1", (2, 8, 7, 2), (4, 4, 2, 3), (2, 1), "SAME"),
    ("InputGradientKernelSizeMatchesInputSize", (2, 4, 3, 2), (4, 3, 2, 3), 1, "VALID"),
    ("FilterGradientKernelSizeMatchesInputSize", (2, 4, 3, 2), (4, 3, 2, 3), 1, "VALID"),
    ("InputGradient1x1PaddingStrideOne", (2, 5, 4, 2), (3, 3, 2, 3), 1, 1, 0.0025),
    ("FilterGradient1x1PaddingStrideOne", (2, 5, 4, 2), (3, 3, 2, 3), 1, 1),
    ("InputGradient1x1PaddingStrideTwo", (2, 4, 5, 2), (3, 3, 2, 3), 2, 1),
    ("FilterGradient1x1PaddingStrideTwo", (2, 4, 5, 2), (3, 3, 2, 3), 2, 1),
    ("InputGradient2x2PaddingStrideOne", (2, 5, 4, 2), (3, 3, 2, 3), 1, 2),
    ("FilterGradient2x2PaddingStrideOne", (2, 5, 4, 2), (3, 3, 2, 3), 1, 2, 0.005),
    *(
        (f"{what}Gradient{test}", x, w, stride, padding)
        for test, x, w, stride, padding in (
            ("1_2_3_4PaddingStride3x2", (2, 8, 5, 3), (4, 2, 3, 2), (3, 2), ((1, 2), (3, 4))),
            ("4_3_2_1PaddingStride2x1", (3, 5, 7, 1), (3, 2, 1, 2), (2, 1), ((4, 3), (2, 1))),
            ("0_0_0_5PaddingStride1x2", (2, 6, 7, 3), (3, 4, 3, 2), (1, 2), ((0, 0), (0, 5))),
        )
        for what in ("Input", "Filter")
    ),
    ("InputGradientValidPaddingStrideOne", (2, 3, 5, 4, 2), (3, 3, 3, 2, 3), 1, "VALID"),
    ("FilterGradientValidPaddingStrideOne", (4, 4, 6, 5, 2), (2, 2, 2, 2, 3), 1, "VALID"),
    ("InputGradientValidPaddingStrideTwo", (2, 6, 3, 5, 2), (3, 3, 3, 2, 3), 2, "VALID"),
    ("FilterGradientValidPaddingStrideTwo", (2, 7, 6, 5, 2), (2, 2, 2, 2, 3), 2, "VALID"),
    ("InputGradientValidPaddingStrideThree", (2, 3, 7, 6, 2), (3, 3, 3, 2, 3), 3, "VALID"),
    ("FilterGradientValidPaddingStrideThree", (2, 4, 4, 7, 2), (4, 4, 4, 2, 3), 3, "VALID"),
    ("InputGradientSamePaddingStrideOne", (2, 3, 2, 2, 2), (3, 2, 1, 2, 1), 1, "SAME"),
    ("FilterGradientSamePaddingStrideOne", (2, 3, 6, 5, 2), (2, 2, 2, 2, 3), 1, "SAME"),
    ("InputGradientSamePaddingStrideTwo", (2, 6, 3, 4, 2), (3, 3, 3, 2, 3), 2, "SAME"),
    ("FilterGradientSamePaddingStrideTwo", (4, 7, 3, 5, 2), (2, 2, 2, 2, 3), 2, "SAME"),
    ("InputGradientSamePaddingStrideThree", (2, 9, 3, 6, 2), (3, 3, 3, 2, 3), 3, "SAME"),
    ("FilterGradientSamePaddingStrideThree", (2, 9, 4, 7, 2), (4, 4, 4, 2, 3), 3, "SAME"),
    (
        "InputGradientSamePaddingDifferentStrides",
        (1, 5, 8, 7, 2),
        (1, 2, 3, 2, 3),
        (2, 3, 1),
        "SAME",
    ),
    ("FilterGradientKernelSizeMatchesInputSize", (2, 5, 4, 3, 2), (5, 4, 3, 2, 3), 1, "VALID"),
    ("InputGradientKernelSizeMatchesInputSize", (2, 5, 4, 3, 2), (5, 4, 3, 2, 3), 1, "VALID"),
    ("InputGradientValidPaddingStrideOneFastPath", (2, 3, 5, 4, 8), (2, 2, 2, 8, 2), 1, "VALID"),
    ("FilterGradientValidPaddingStrideOneFastPath", (2, 4, 6, 5, 8), (2, 2, 2, 8, 2), 1, "VALID"),
]


def onnx() -> Iterator[Case]:
    """The node tests of Conv, with dy = y, and of ConvTranspose, whose output is dX.

    Where an output has more cells than a convolution's input may have, it is left out.
    """
    from onnx.backend.test.case.node import collect_testcases
    from onnx.helper import get_attribute_value

    for test in collect_testcases(None):
        node = test.model.graph.node[0]
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        options = {a.name: get_attribute_value(a) for a in node.attribute}
        [((one, weight), [other])] = test.data_sets
        x, dy = map(_channels_last, (one, other) if node.op_type == "Conv" else (other, one))
        w = np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)))
        params = _onnx_params(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], options)
        if output_size(x.shape[1:-1], w.shape[:-2], params) != dy.shape[1:-1]:
            continue
        problem = ConvProblem(x, w, None, dy, params)
        yield Case(
            test.name, x.shape, w.shape, params, ("x", "w"), x.dtype.name, normal, given=problem
        )


def _onnx_params(spatial: Size, kernel: Size, out: Size, options: dict[str, Any]) -> ConvParams:
    """Padding that is not given is what makes the sizes fit; its odd cell goes where it is said."""
    rank = len(kernel)
    stride = tuple(options.get("strides", [1] * rank))
    dilation = tuple(options.get("dilations", [1] * rank))
    pads = options.get("pads", [0] * 2 * rank)
    padding = [*zip(pads[:rank], pads[rank:])]
    if (auto := options.get("auto_pad")) is not None:
        spans = ((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation))
        totals = [max(span - size, 0) for span, size in zip(spans, spatial)]
        padding = [(total // 2, total - total // 2) for total in totals]
        if auto == b"SAME_LOWER":
            padding = [(hi, lo) for lo, hi in padding]
    return ConvParams(stride, tuple(padding), dilation, options.get("group", 1))


def _channels_last(array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))
