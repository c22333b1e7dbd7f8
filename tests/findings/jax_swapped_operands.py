"""JAX: XLA aborts where it compiles dX of a convolution for the CPU.

Its `conv_operand_swapper` exchanges kernel and input where that leaves fewer taps. An axis of two
taps and stride 2, with one cell of padding before it, it takes for one that may stay as it is, and
leaves it a window of two, which is right for two outputs only; here are three.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

axes = ("NXYC", "XYIO", "NXYC")
x, w = (np.ones(shape, np.float32) for shape in ((1, 4, 1, 1), (2, 3, 1, 1)))
y, pull_back = jax.vjp(
    lambda x: jax.lax.conv_general_dilated(x, w, (2, 1), ((1, 1), (1, 1)), dimension_numbers=axes),
    jax.numpy.asarray(x),
)
pull_back(jax.numpy.ones_like(y))
print("not reproduced")
