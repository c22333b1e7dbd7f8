"""tf.nn.conv2d, float16: an empty batch gives an output of the input's shape.

TensorFlow 2.21.0 with oneDNN, which takes float16 on processors with AVX-512 FP16, convolutions of
all ranks. TF_ENABLE_ONEDNN_OPTS=0 is right. Expected: (0, 4, 3, 8).
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = np.ones((0, 5, 4, 3), np.float16), np.ones((2, 2, 3, 8), np.float16)
    y = tf.nn.conv2d(x, w, [1, 1, 1, 1], "VALID")
    if y.shape == (0, 4, 3, 8):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y.shape = {y.shape}, but should be (0, 4, 3, 8)")
    sys.exit(1)


main()
