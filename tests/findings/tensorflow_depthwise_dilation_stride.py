"""tf.nn.depthwise_conv2d with stride > 1 and dilation > 1: accepted, computes something else.

TensorFlow 2.21.0. The documentation says that strides must be 1 then; nothing checks it. Expected:
an error, or y[o] = sum over k of x[2 o + 2 k] w[k].
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x = np.tile(np.arange(1.0, 10.0).reshape(1, 1, 9, 1), (1, 9, 1, 1))
    w = np.ones((1, 2, 1, 1))
    want = np.array([x[0, 0, 2 * o, 0] + x[0, 0, 2 * o + 2, 0] for o in range(4)])
    try:
        y = tf.nn.depthwise_conv2d(x, w, [1, 2, 2, 1], "VALID", dilations=[2, 2]).numpy()
    except (ValueError, tf.errors.OpError) as error:
        sys.exit(print(f"not reproduced: {error}"))
    if y.shape == (1, 5, 4, 1) and np.array_equal(y[0, 0].ravel(), want):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y {y.shape} begins {y[0, 0].ravel()}, but should be (1, 5, 4, 1) and {want}")
    sys.exit(1)


main()
