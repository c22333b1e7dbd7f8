"""tf.nn.depthwise_conv2d, float16, one column: dX is wrong where it sums over 33 filters or more.

TensorFlow 2.21.0 with oneDNN, which takes float16 on processors with AVX-512 FP16. Kernels of one
tap on the last axis, output of one column there, more than 32 channels to sum over and not a
multiple of 32: those of x for y of conv2d and conv3d, the filters of a group for dX.
TF_ENABLE_ONEDNN_OPTS=0 is right. Expected: 66.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 1, 1, 1), tf.float16), tf.ones((2, 1, 1, 33), tf.float16)
    for _ in range(100):
        with tf.GradientTape() as tape:
            tape.watch(x)
            padded = tf.pad(x, [[0, 0], [5, 5], [0, 0], [0, 0]])
            y = tf.nn.depthwise_conv2d(padded, w, [1, 1, 1, 1], "VALID")
        [dx] = np.ravel(tape.gradient(y, x))
        if dx != 66:
            print(f"DEFECT: dX = {dx}, but should be 66")
            sys.exit(1)
    print("not reproduced")


main()
