"""tf.nn.conv3d, float64, SAME: the forward reads shifted positions.

TensorFlow 2.21.0, where an axis has input that no window needs, (O - 1) * stride + kernel < size:
the total padding is then negative and is not clamped to 0. Gradients are right. Expected: x[::3].
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x = np.arange(1.0, 7.0).reshape(1, 6, 1, 1, 1)
    got = tf.nn.conv3d(x, np.ones((1, 1, 1, 1, 1)), [1, 3, 1, 1, 1], "SAME").numpy().ravel()
    want = x.ravel()[::3]
    if np.array_equal(got, want):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y = {got}, but should be {want}")
    sys.exit(1)


main()
