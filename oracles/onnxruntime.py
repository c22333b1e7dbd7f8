"""ONNX Runtime: gradients as forward operators of ONNX, which has no others.

dX is a ConvTranspose of dy, dW a Conv of x with dy whose batches are channels and whose strides are
dilations, db a ReduceSum. Arrays are channels-first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem

distribution = "onnxruntime"
installs = "onnxruntime onnx"
required = False
preload = ("onnxruntime", "onnx.helper")
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32",), empty_batch=False))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    params = problem.params
    strides, dilations, groups = params.stride, params.dilation, params.groups
    reads = {"strides": strides, "dilations": dilations, "group": groups}
    x = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    reach = ((o - 1) * s + e for o, s, e in zip(problem.dy.shape[1:-1], strides, problem.extent))
    read = (slice(None), *map(slice, reach))
    cells, dy = _first(x[read]), _first(problem.dy)
    w = np.ascontiguousarray(np.moveaxis(problem.w, (-1, -2), (0, 1)))
    bias = [] if problem.b is None else [problem.b]
    y = _run("Conv", [cells, w, *bias], **reads)
    dx = np.zeros_like(x)
    dx[read] = np.moveaxis(_run("ConvTranspose", [dy, w], **reads), 1, -1)
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(problem.spatial, params.padding))
    parts = [
        _run("Conv", [a.swapaxes(0, 1), g.swapaxes(0, 1)], strides=dilations, dilations=strides)
        for a, g in zip(np.split(cells, groups, axis=1), np.split(dy, groups, axis=1))
    ]
    dw = np.concatenate([np.moveaxis(part, (0, 1), (-2, -1)) for part in parts], axis=-1)
    axes = np.array([axis for axis in range(dy.ndim) if axis != 1])
    db = None if problem.b is None else _run("ReduceSum", [dy, axes], keepdims=0)
    return ConvGrads(dx[(slice(None), *inside)], dw, db, np.moveaxis(y, 1, -1))


def _first(array: Array) -> Array:
    """A channels-last array with channels first."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def _run(operator: str, inputs: list[Array], **attributes: Any) -> Array:
    """The output of one ONNX operator."""
    import onnxruntime
    from onnx import helper

    names = [f"i{number}" for number in range(len(inputs))]
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip(names, inputs)
    ]
    output = helper.make_tensor_value_info(
        "o", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), None
    )
    node = helper.make_node(operator, names, ["o"], **attributes)
    graph = helper.make_graph([node], operator, values, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    [result] = session.run(None, dict(zip(names, inputs)))
    return np.asarray(result)
