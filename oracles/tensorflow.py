"""TensorFlow: GradientTape over tf.nn.conv1d, conv2d, conv3d, depthwise_conv2d and convolution.

Which operation: `depthwise_conv2d` where groups = C in 2-D and it takes the strides, else `convN`,
which takes groups and dilation in float32; `convolution`, which moves space to batch, for dilation
in float64. Padding is TensorFlow's own where it has one that is meant: VALID for none, SAME where
the numbers are SAME's, explicit for conv2d and depthwise_conv2d; else tf.pad goes before VALID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oracles.protocol import Box, Domain
from reference.problem import ConvGrads, ConvProblem, same_padding

if TYPE_CHECKING:
    Tensor = Any  # tensorflow ships no types

distribution = ("tensorflow-cpu", "tensorflow")
preload = ("tensorflow",)
domain = Domain(
    Box(ranks=(1, 2), dtypes=("float32",)),
    # conv3d: "input depth must be divisible by filter depth" for groups
    Box(ranks=(3,), dtypes=("float32",), groups=("one",)),
    # float64: "do not yet support dilation rates larger than 1", and no grouped kernels
    Box(ranks=(1, 2, 3), dtypes=("float64",), groups=("one",), dilation="one"),
    Box(ranks=(1, 2, 3), dtypes=("float64",), groups=("one",), stride="one"),
    Box(ranks=(2,), dtypes=("float64",), groups=("depthwise",), stride="equal", dilation="one"),
    Box(ranks=(2,), dtypes=("float64",), groups=("depthwise",), stride="one"),
)


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    import tensorflow as tf

    x, w = tf.constant(problem.x), tf.constant(problem.w)
    b = None if problem.b is None else tf.constant(problem.b)
    inputs = [tensor for tensor in (x, w, b) if tensor is not None]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = _forward(problem, x, w)
        if b is not None:
            y = tf.nn.bias_add(y, b)
    gradients = tape.gradient(y, inputs, output_gradients=tf.constant(problem.dy))
    if None in gradients:
        raise NotImplementedError(f"GradientTape gives no gradient for dtype {problem.dtype}")
    dx, dw, *db = (gradient.numpy() for gradient in gradients)
    return ConvGrads(dx, dw, db[0] if db else None, y.numpy())


def _forward(problem: ConvProblem, x: Tensor, w: Tensor) -> Tensor:
    import tensorflow as tf

    params = problem.params
    stride, dilation = list(params.stride), list(params.dilation)
    depthwise = _is_depthwise_conv2d(problem)
    # conv2d: "Gradients for grouped convolutions are not supported" with explicit padding
    takes_explicit = depthwise or (params.rank == 2 and params.groups == 1)
    padding: Any = _padding(problem, takes_explicit=takes_explicit)
    if padding == "EXPLICIT":
        padding = [[0, 0], *map(list, params.padding), [0, 0]]
    elif padding == "tf.pad":
        x = tf.pad(x, [[0, 0], *params.padding, [0, 0]])
        padding = "VALID"
    if depthwise:
        multiplier = problem.w.shape[-1] // params.groups
        w = tf.reshape(w, [*problem.kernel, params.groups, multiplier])
        return tf.nn.depthwise_conv2d(x, w, [1, *stride, 1], padding, dilations=dilation)
    if _is_dilated(problem) and problem.dtype == "float64":
        return tf.nn.convolution(x, w, strides=stride, padding=padding, dilations=dilation)
    if params.rank == 1:
        return tf.nn.conv1d(x, w, stride, padding, dilations=dilation)
    convolve = tf.nn.conv2d if params.rank == 2 else tf.nn.conv3d
    return convolve(x, w, [1, *stride, 1], padding, dilations=[1, *dilation, 1])


def _padding(problem: ConvProblem, *, takes_explicit: bool) -> str:
    """VALID, SAME, EXPLICIT or tf.pad: the first of them that means the problem's numbers."""
    params = problem.params
    if not any(map(any, params.padding)):
        return "VALID"
    if params.padding == same_padding(
        problem.spatial, problem.kernel, params.stride, params.dilation
    ):
        return "SAME"
    # "explicit padding with dilation is not supported"
    return "EXPLICIT" if takes_explicit and not _is_dilated(problem) else "tf.pad"


def _is_depthwise_conv2d(problem: ConvProblem) -> bool:
    """Whether tf.nn.depthwise_conv2d takes the problem.

    It refuses unequal strides, and takes dilation with strides but computes something else then.
    """
    params = problem.params
    return (
        params.rank == 2
        and params.groups == problem.x.shape[-1] > 1
        and len(set(params.stride)) == 1
        and (not _is_dilated(problem) or set(params.stride) == {1})
    )


def _is_dilated(problem: ConvProblem) -> bool:
    return set(problem.params.dilation) != {1}
