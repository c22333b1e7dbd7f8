"""tf.nn.conv2d_transpose with a negative output size: the process aborts.

TensorFlow 2.21.0 (oneDNN): a CHECK in mkl_conv_grad_input_ops.cc on the status of the shape.
Expected: an error, as with TF_ENABLE_ONEDNN_OPTS=0.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    try:
        y = tf.nn.conv2d_transpose(tf.ones((1, 4, 4, 3)), tf.ones((3, 3, 3, 3)), [1, -8, 8, 3], 2)
    except (ValueError, tf.errors.OpError) as error:
        sys.exit(print(f"not reproduced: {type(error).__name__}"))
    print(f"DEFECT: no error, a result of shape {y.shape}")
    sys.exit(1)


main()
