"""Conv2DBackpropFilter, float32, 1x1 kernel, stride > 1, fewer than 16 channels: heap corruption.

TensorFlow 2.21.0 with oneDNN (jit_1x1 backward weights writes past its workspace, oneDNN#6035), one
group, more than 512 outputs per sample with one thread, fewer with more threads. Expected: every
element of dW is the number of outputs, and no process dies.
"""

import os
import sys

import numpy as np

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
CASES = ((15, 4, (2, 2)), (5, 16, (1, 2)), (7, 16, (2, 2)), (3, 8, (1, 2)))


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    for call in range(400):
        for channels, filters, (high, wide) in CASES:
            outputs = (64 // high, 64 // wide)
            dw = tf.raw_ops.Conv2DBackpropFilter(
                input=np.ones((2, 64, 64, channels), np.float32),
                filter_sizes=[1, 1, channels, filters],
                out_backprop=np.ones((2, *outputs, filters), np.float32),
                strides=[1, high, wide, 1],
                padding="VALID",
            ).numpy()
            if np.any(dw != 2 * outputs[0] * outputs[1]):
                print(f"DEFECT: dW is wrong in call {call}")
                sys.exit(1)
    print("not reproduced")


main()
