"""tf.nn.conv2d/3d, float16, kernel and output one column wide: y depends on stale memory.

TensorFlow 2.21.0 (oneDNN's brg_conv_fwd, AVX512-FP16): C above 32 and no multiple of 16, two taps
or more. Memory that was not written is multiplied by zero, which makes NaN of NaN. Right with
TF_ENABLE_ONEDNN_OPTS=0. Expected: y = 0.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = tf.zeros((1, 2, 1, 33), tf.float16), tf.zeros((2, 1, 33, 4), tf.float16)
    for _ in range(200):
        junk = [tf.constant(np.full(4**n, np.nan, np.float16)) + 1 for n in range(3, 7)]
        del junk
        y = tf.nn.conv2d(x, w, 1, "VALID").numpy()
        if np.any(y != 0):
            print(f"DEFECT: y = {y.ravel()}, but should be 0")
            sys.exit(1)
    print("not reproduced")


main()
