"""tf.nn.convolution, 3-D, eager, default data_format: no gradient, "no attribute 'decode'".

TensorFlow 2.21.0: None reaches the gradient function as data_format. With data_format="NDHWC",
under tf.function or dilated it works; 2-D fails so in second order.
Expected: dW = 8.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 2, 2, 2, 1)), tf.ones((1, 1, 1, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.nn.convolution(x, w)
    try:
        tape.gradient(y, w)
    except AttributeError as error:
        print(f"DEFECT: AttributeError: {error}")
        sys.exit(1)
    print("not reproduced")


main()
