"""tf.nn.depthwise_conv2d, float64, empty batch: the filter gradient is uninitialised memory.

TensorFlow 2.21.0. Expected: zeros.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    for _ in range(200):
        junk = [tf.constant(np.full((2, 2, 4, 1), 1e300)) + 1.0 for _ in range(4)]
        del junk
        dw = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=np.ones((0, 5, 4, 4)),
            filter_sizes=[2, 2, 4, 1],
            out_backprop=np.ones((0, 4, 3, 4)),
            strides=[1, 1, 1, 1],
            padding="VALID",
        ).numpy()
        if np.any(dw != 0):
            print(f"DEFECT: {np.sum(dw != 0)} values of dW are not 0, up to {np.abs(dw).max():g}")
            sys.exit(1)
    print("not reproduced")


main()
