"""TensorFlow: dX in float16, compiled by XLA for the CPU, is what lay in memory.

dX of zeros is not zero where the first windows lie wholly in the padding: as a convolution of dy it
then has a negative padding. float32 is right, and so was TensorFlow 2.20.0.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf


@tf.function(jit_compile=True)
def dx(w, dy):
    """For x (1, 2, 2, 1) with 4 rows of padding above."""
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[1, 2, 2, 1],
        filter=w,
        out_backprop=dy,
        strides=[1, 1, 1, 1],
        padding="EXPLICIT",
        explicit_paddings=[0, 0, 4, 0, 0, 0, 0, 0],
    )


w, dy = tf.ones((3, 1, 1, 3), tf.float16), tf.zeros((1, 4, 2, 3), tf.float16)
for _ in range(100):
    found = np.ravel(dx(w, dy))
    if found.any():
        print(f"DEFECT: dX = {found}, but should be 0")
        sys.exit(1)
print("not reproduced")
