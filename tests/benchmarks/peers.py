"""The gradient checks of PyTorch, JAX and TensorFlow, for a forward and a backward in NumPy.

`forward` takes the inputs and returns y, `backward` takes the inputs and dy and returns a gradient
for each. A check returns whether it is content, and raises where its framework does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from unittest import mock

import numpy as np

from reference.problem import Array

Forward: TypeAlias = Callable[..., Array]
Backward: TypeAlias = Callable[..., Sequence[Array]]


def version(distributions: Sequence[str]) -> str | None:
    """What is installed of the first of `distributions` that is; None for nothing."""
    for name in distributions:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def gradcheck(
    forward: Forward, backward: Backward, inputs: Sequence[Array], *, fast: bool, seed: int = 0
) -> bool:
    """torch.autograd.gradcheck of an autograd.Function.

    Where the fast mode finds a fault, it goes on to the slow one, for its message: left out here.
    """
    import torch

    module = importlib.import_module("torch.autograd.gradcheck")  # torch.autograd has the function

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors)
            return torch.from_numpy(forward(*(tensor.detach().numpy() for tensor in tensors)))

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:
            arrays = (tensor.detach().numpy() for tensor in (*ctx.saved_tensors, dy))
            return tuple(map(torch.from_numpy, backward(*arrays)))

    torch.manual_seed(seed)
    tensors = [torch.from_numpy(array).requires_grad_() for array in inputs]
    with mock.patch.object(module, "_run_slow_mode_and_get_error", return_value=""):
        content = module.gradcheck(
            Convolution.apply, tensors, fast_mode=fast, raise_exception=False
        )
    return bool(content)


def assert_close(got: Sequence[Array], want: Sequence[Array]) -> bool:
    """torch.testing.assert_close of every pair, with its defaults."""
    import torch

    try:
        for one, other in zip(got, want):
            torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other))
    except AssertionError:
        return False
    return True


def check_grads(
    forward: Forward, backward: Backward, inputs: Sequence[Array], dy: Array, **options: Any
) -> bool:
    """jax.test_util.check_grads of a custom_vjp, in reverse mode, which is all that it has."""
    import jax
    from jax.test_util import check_grads as check

    jax.config.update("jax_enable_x64", dy.dtype == "float64")
    like_y = jax.ShapeDtypeStruct(dy.shape, dy.dtype)
    like_inputs = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in inputs)

    @jax.custom_vjp
    def convolve(*inputs: Any) -> Any:
        return jax.pure_callback(forward, like_y, *inputs)

    def convolve_backward(inputs: Any, dy: Any) -> Any:
        return jax.pure_callback(backward, like_inputs, *inputs, dy)

    convolve.defvjp(lambda *inputs: (convolve(*inputs), inputs), convolve_backward)
    try:
        check(convolve, inputs, order=1, modes=["rev"], **options)
    except AssertionError:
        return False
    return True


def check_vjp(
    forward: Forward, backward: Backward, inputs: Sequence[Array], dy: Array, **options: Any
) -> bool:
    """jax.test_util.check_vjp, which is what `check_grads` comes to, without JAX's tracing.

    It is thirty times as fast. What JAX sees to is seen to here: that a gradient has its input's
    shape and dtype, and that arrays in a callback are read-only.
    """
    import jax
    from jax.test_util import check_vjp as check

    jax.config.update("jax_enable_x64", dy.dtype == "float64")

    def vjp(*inputs: Array) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
        def pull_back(dy: Any) -> tuple[Array, ...]:
            arrays = [np.array(array) for array in (*inputs, dy)]
            for array in arrays:
                array.flags.writeable = False
            grads = tuple(backward(*arrays))
            for grad, array in zip(grads, inputs):
                if (grad.shape, grad.dtype) != (array.shape, array.dtype):
                    raise TypeError(f"{grad.shape} {grad.dtype} for {array.shape} {array.dtype}")
            return grads

        return forward(*inputs), pull_back

    try:
        check(forward, vjp, tuple(inputs), **options)
    except AssertionError:
        return False
    return True


def compute_gradient(
    forward: Forward, backward: Backward, inputs: Sequence[Array], dy: Array
) -> list[tuple[Array, Array]]:
    """tf.test.compute_gradient of a custom_gradient: both Jacobians with respect to each input."""
    import tensorflow as tf

    dtype = dy.dtype.name

    @tf.custom_gradient
    def convolve(*tensors: Any) -> Any:
        y = tf.ensure_shape(tf.numpy_function(forward, tensors, dtype), dy.shape)

        def convolve_backward(dy: Any) -> Any:
            grads = tf.numpy_function(backward, [*tensors, dy], [dtype] * len(inputs))
            grads = tf.nest.flatten(grads)  # of one it makes no list
            return [tf.ensure_shape(grad, array.shape) for grad, array in zip(grads, inputs)]

        return y, convolve_backward

    return [*zip(*tf.test.compute_gradient(convolve, inputs))]
