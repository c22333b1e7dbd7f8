"""tf.function of conv2d, bias_add, relu, float32: SIGSEGV where all columns lie in the padding.

TensorFlow 2.21.0: the fusion gives oneDNN the bias that its float32 kernel needs to fail, see
tensorflow_columns_in_padding.py; eager is right. Expected: y = bias.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 1, 1, 1)), tf.ones((1, 1, 1, 1))

    @tf.function
    def layer(x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.conv2d(x, w, [1, 1, 2, 1], [[0, 0], [0, 0], [3, 1], [0, 0]])
        return tf.nn.relu(tf.nn.bias_add(y, [1.0]))

    if tf.reduce_all(layer(x) == 1):
        sys.exit(print("not reproduced"))
    print("DEFECT: y is not the bias")
    sys.exit(1)


main()
