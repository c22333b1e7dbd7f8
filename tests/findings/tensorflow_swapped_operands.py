"""TensorFlow: the gradient of a convolution compiled by XLA aborts on the CPU.

The cause is that of jax_swapped_operands.py. Without jit_compile there is no such defect.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

PADDING = [[0, 0], [1, 1], [1, 1], [0, 0]]


@tf.function(jit_compile=True)
def dx(x, w):
    """Of the sum of y."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.conv2d(x, w, strides=[1, 2, 1, 1], padding=PADDING)
    return tape.gradient(y, x)


dx(tf.ones((1, 4, 1, 1)), tf.ones((2, 3, 1, 1)))
print("not reproduced")
