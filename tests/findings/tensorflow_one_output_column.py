"""tf.nn.conv2d, float32: wrong forward for one input channel and one output column.

TensorFlow 2.21.0 with oneDNN on a processor with AVX-512 (brg_conv_fwd). Strides (1, s > 1), kernel
wider than 1, batch above 1. Expected: y is the plain sums. TF_ENABLE_ONEDNN_OPTS=0 is right.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3, 1)
    w = np.ones((1, 2, 1, 1), np.float32)
    got = tf.nn.conv2d(x, w, [1, 1, 2, 1], "VALID").numpy().ravel()
    want = (x[:, :, 0] + x[:, :, 1]).ravel()
    if np.array_equal(got, want):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y = {got}, but should be {want}")
    sys.exit(1)


main()
