"""tf.nn.conv1d, float64, VALID, kernel larger than the input: dW is garbage, or SIGSEGV.

TensorFlow 2.21.0, where the kernel exceeds the input by less than the stride, so that y is empty.
Expected: an error, or dW = 0.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    for _ in range(60):
        for taps, stride in ((6, 1), (7, 2), (8, 4)):
            junk = [tf.constant(np.full(taps * 12, 1e300)) + 1.0 for _ in range(2)]
            del junk
            x, w = tf.constant(np.ones((2, 5, 3))), tf.constant(np.ones((taps, 3, 4)))
            try:
                with tf.GradientTape() as tape:
                    tape.watch([x, w])
                    y = tf.nn.conv1d(x, w, stride, "VALID")
                dw = tape.gradient(y, w, output_gradients=tf.zeros_like(y)).numpy()
            except (ValueError, tf.errors.OpError) as error:
                sys.exit(print(f"not reproduced: {error}"))
            if np.any(dw != 0):
                print(f"DEFECT: dW is not 0, up to {np.abs(dw).max():g}")
                sys.exit(1)
    print("not reproduced")


main()
