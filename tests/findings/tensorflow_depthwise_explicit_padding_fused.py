"""tf.function of depthwise_conv2d with explicit padding and bias_add: CHECK aborts the process.

TensorFlow 2.21.0, oneDNN on, float32, float16 and bfloat16: the operation that the two are fused
into works its shape out with a list of paddings that it does not have. Eager is right.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 2, 2, 2)), tf.ones((1, 1, 2, 1))

    @tf.function
    def layer(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], [[0, 0], [1, 0], [0, 0], [0, 0]])
        return tf.nn.bias_add(y, b)

    if layer(x, w, tf.zeros(2)).shape == (1, 3, 2, 2):
        sys.exit(print("not reproduced"))
    print("DEFECT: y has another shape")
    sys.exit(1)


main()
