"""tf.nn.conv2d, float32, VALID, kernel larger than the input: the forward returns the input.

TensorFlow 2.21.0 with oneDNN, where the kernel exceeds the input by less than the stride. Expected:
an error, or an empty output of shape (2, 0, 0, 4).
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = np.ones((2, 3, 3, 5), np.float32), np.ones((4, 4, 5, 4), np.float32)
    try:
        y = tf.nn.conv2d(x, w, [1, 2, 2, 1], "VALID")
    except (ValueError, tf.errors.OpError) as error:
        sys.exit(print(f"not reproduced: {error}"))
    if y.shape == (2, 0, 0, 4):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y.shape = {y.shape}, but should be (2, 0, 0, 4)")
    sys.exit(1)


main()
