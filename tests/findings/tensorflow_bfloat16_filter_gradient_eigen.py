"""tf.nn.conv2d, bfloat16, oneDNN off: dW of 16,384 ones is 5376.

TensorFlow 2.21.0 with TF_ENABLE_ONEDNN_OPTS=0: Eigen's product rounds its partial sums to bfloat16.
conv1d, conv3d and the transposed ones too. Expected: 16384, which bfloat16 holds.
"""

import os
import sys

os.environ.update(TF_ENABLE_ONEDNN_OPTS="0")
os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 16384, 1, 2), tf.bfloat16), tf.ones((1, 1, 2, 2), tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.nn.conv2d(x, w, 1, "VALID")
    dw = tape.gradient(y, w)
    if tf.reduce_all(dw == 16384):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: dW = {float(dw[0, 0, 0, 0]):g}, but should be 16384")
    sys.exit(1)


main()
