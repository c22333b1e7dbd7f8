"""tf.nn.conv2d, bfloat16, SAME, stride > 1: dW is uninitialised where a tap reads only padding.

TensorFlow 2.21.0 (oneDNN), ranks 1 to 3, taps of the last axis. Expected: 0.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    dtype, shape = tf.bfloat16, (1, 2, 3, 1)
    x, dy = tf.ones((1, 3, 1, 3), dtype), tf.ones((1, 2, 1, 1), dtype)
    for _ in range(200):
        junk = [tf.fill(shape, tf.cast(1e9, dtype)) for _ in range(4)]
        del junk
        with tf.GradientTape() as tape:
            w = tf.ones(shape, dtype)
            tape.watch(w)
            y = tf.nn.conv2d(x, w, 2, "SAME")
        dw = tape.gradient(y, w, dy).numpy().astype(np.float64)
        if np.any(dw[:, 1] != 0):
            print(f"DEFECT: dW is {dw[:, 1].ravel()}, but should be 0 in the second column of taps")
            sys.exit(1)
    print("not reproduced")


main()
