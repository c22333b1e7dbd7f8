"""tf.nn.conv2d, bfloat16, explicit padding: SIGSEGV where all columns lie in the padding.

TensorFlow 2.21.0 (oneDNN), stride > 1 on the last axis, with dilation or uneven padding, as
pytorch_columns_in_padding.py. float32 too once tf.function fuses a bias. Expected: y = 0.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 1, 1, 1), tf.bfloat16), tf.ones((1, 1, 1, 1), tf.bfloat16)
    y = tf.nn.conv2d(x, w, [1, 1, 2, 1], [[0, 0], [0, 0], [1, 1], [0, 0]], dilations=[1, 1, 2, 1])
    if tf.reduce_all(y == 0):
        sys.exit(print("not reproduced"))
    print("DEFECT: y is not 0")
    sys.exit(1)


main()
