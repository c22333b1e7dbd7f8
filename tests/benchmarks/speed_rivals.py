"""Who computes a layer's gradients, or y, each in a process of its own with so many threads.

`python -m tests.benchmarks.speed_rivals NAME` answers requests, one JSON line each: to get ready
for a layer, to take a time, `speed.ask` being at the other end. Only NumPy and what NAME needs is
imported, so that it also runs where Chainer's old NumPy is.
"""

from __future__ import annotations

import json
import math
import sys
import timeit
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from reference.problem import same_padding
from tests.support.layers import Layer, layer_of

Call: TypeAlias = Callable[[], object]
LEAST = 20e-3  # seconds: so long a time is taken for, at least, over several calls if need be
_REPEATS = 5  # times, the least of which counts


def ours(layer: Layer, dtype: str, *, forward: bool = False, plan: str | None = None) -> Call:
    """The reference, by the plan that it chooses or by another."""
    from reference import conv_backward, conv_forward

    x, w, dy = layer.arrays(dtype)
    if forward:
        return lambda: conv_forward(x, w, None, layer.params, plan=plan)
    return lambda: conv_backward(x, w, dy, layer.params, plan=plan)


def pytorch(
    layer: Layer, dtype: str, *, forward: bool = False, channels_last: bool = False
) -> Call:
    """aten.convolution(_backward) of channels-first tensors, which lie in memory as they say."""
    import torch

    rank, params = layer.params.rank, layer.params
    layouts = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    layout = layouts[rank - 1 if channels_last else 0]
    x, w, dy = map(torch.from_numpy, layer.arrays(dtype))
    first = (0, rank + 1, *range(1, rank + 1))
    tensors = [
        tensor.contiguous(memory_format=layout)
        for tensor in (dy.permute(first), x.permute(first), w.permute(rank + 1, rank, *range(rank)))
    ]
    arguments = [
        params.stride,
        [lo for lo, _ in params.padding],
        params.dilation,
        False,  # not transposed
        [0] * rank,
        params.groups,
    ]
    if forward:
        return lambda: torch.ops.aten.convolution(*tensors[1:], None, *arguments)
    filters = [layer.w[-1]]
    return lambda: torch.ops.aten.convolution_backward(*tensors, filters, *arguments, [True] * 3)


def pytorch_channels_last(layer: Layer, dtype: str, *, forward: bool = False) -> Call:
    """The same in the order of memory that ours has."""
    return pytorch(layer, dtype, forward=forward, channels_last=True)


def tensorflow(layer: Layer, dtype: str, *, forward: bool = False) -> Call:
    """The raw operations, one-dimensional layers as two-dimensional ones."""
    import tensorflow as tf

    params, (x, w, dy) = layer.params, map(tf.constant, layer.arrays(dtype))
    depthwise = layer.kind == "depthwise"
    sides = [(0, 0), *params.padding, (0, 0)]
    stride, dilation = [1, *params.stride, 1], [1, *params.dilation, 1]
    if params.rank == 1:
        x, w, dy = (tf.expand_dims(tensor, axis) for tensor, axis in ((x, 1), (w, 0), (dy, 1)))
        sides, stride, dilation = [(0, 0), *sides], [1, *stride], [1, *dilation]
    same = same_padding(tuple(x.shape)[1:-1], tuple(w.shape)[:-2], stride[1:-1], dilation[1:-1])
    arguments = {"strides": stride, "dilations": dilation, "padding": "EXPLICIT"}
    if not any(map(any, sides)):
        arguments["padding"] = "VALID"
    elif tuple(sides[1:-1]) == same:
        arguments["padding"] = "SAME"
    else:
        arguments["explicit_paddings"] = [cells for pair in sides for cells in pair]
    if params.rank == 3:
        y_of = tf.raw_ops.Conv3D
        dx_of, dw_of = tf.raw_ops.Conv3DBackpropInputV2, tf.raw_ops.Conv3DBackpropFilterV2
    elif depthwise:
        y_of = tf.raw_ops.DepthwiseConv2dNative
        dx_of = tf.raw_ops.DepthwiseConv2dNativeBackpropInput
        dw_of = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter
        w = tf.reshape(w, (*layer.w[:-2], params.groups, -1))
    else:
        y_of = tf.raw_ops.Conv2D
        dx_of, dw_of = tf.raw_ops.Conv2DBackpropInput, tf.raw_ops.Conv2DBackpropFilter
    if forward:
        return lambda: y_of(input=x, filter=w, **arguments)
    x_sizes, w_sizes = tf.shape(x), tf.shape(w)

    def call() -> object:
        return (
            dx_of(input_sizes=x_sizes, filter=w, out_backprop=dy, **arguments),
            dw_of(input=x, filter_sizes=w_sizes, out_backprop=dy, **arguments),
            tf.raw_ops.BiasAddGrad(out_backprop=dy),
        )

    return call


def chainer(layer: Layer, dtype: str) -> Call:
    """The backward of its functions on NumPy arrays, contiguous and channels first."""
    from chainer import Variable, functions

    params = layer.params
    x, w, dy = layer.arrays(dtype)
    x, dy = (np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in (x, dy))
    w = np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))
    inputs = [Variable(array) for array in (x, w, np.zeros(len(w), dtype))]
    y = functions.convolution_nd(
        *inputs,
        stride=params.stride,
        pad=[lo for lo, _ in params.padding],
        dilate=params.dilation,
        groups=params.groups,
    )

    def call() -> object:
        for variable in inputs:
            variable.cleargrad()
        y.grad = dy
        y.backward(retain_grad=True)
        return [variable.grad for variable in inputs]

    return call


RIVALS: Mapping[str, Callable[..., Call]] = {
    "ours": ours,
    "pytorch": pytorch,
    "pytorch channels_last": pytorch_channels_last,
    "tensorflow": tensorflow,
    "chainer": chainer,
}


def seconds_of(call: Call) -> float:
    """Of one call: the least of `_REPEATS` means, each of as many as take `LEAST`.

    How many that is, the second call says; it is not counted, nor is the first. They take what a
    virtual machine has taken back of memory that nobody used for a second: who touches such a page
    waits for it, 20 times as long as for one that is at hand. Some later calls meet such pages too,
    and what else slows a call down is not its own either: therefore the least.
    """
    timer = timeit.Timer(call)
    timer.timeit(1)
    calls = math.ceil(LEAST / timer.timeit(1))
    return min(timer.repeat(_REPEATS, calls)) / calls


def answer(name: str) -> None:
    """Until there is no more input: make a call ready, or say how long it takes."""
    call: Call | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            if "layer" in request:
                call = None  # lets go of the last layer's arrays first
                call = RIVALS[name](layer_of(request["layer"]), **request["options"])
                call()
                reply: object = None
            else:
                assert call is not None
                reply = seconds_of(call)
        except Exception as error:  # a kernel that is not there, in each framework's own type
            reply = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    answer(sys.argv[1])
