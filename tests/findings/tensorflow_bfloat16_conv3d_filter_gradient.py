"""tf.nn.conv3d, bfloat16, SAME, few depths: dW has stale memory added.

TensorFlow 2.21.0 (oneDNN), input less deep than the kernel, such as depth 2, kernel 3: some taps
lose an output's share and start from what memory held. Expected: dW as in float64.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x = tf.ones((1, 2, 4, 4, 3), tf.bfloat16)
    for _ in range(200):
        junk = [tf.fill((3, 3, 3, 3, 2), tf.cast(1e9, tf.bfloat16)) for _ in range(4)]
        del junk
        with tf.GradientTape() as tape:
            w = tf.ones((3, 3, 3, 3, 2), tf.bfloat16)
            tape.watch(w)
            y = tf.nn.conv3d(x, w, [1, 1, 1, 1, 1], "SAME")
        dw = tape.gradient(y, w).numpy().astype(np.float64)[:, 1, 1, 0, 0].tolist()
        if dw != [16.0, 32.0, 16.0]:
            print(f"DEFECT: dW along the depth is {dw}, but should be {[16.0, 32.0, 16.0]}")
            sys.exit(1)
    print("not reproduced")


main()
