"""The raw gradients of depthwise_conv2d (and Conv2D) with 3 strides: the process aborts.

TensorFlow 2.21.0 (oneDNN): a CHECK in tensor_format.h when the kernel is made. Expected: an error,
as with TF_ENABLE_ONEDNN_OPTS=0.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    try:
        y = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=tf.ones((1, 4, 4, 3)),
            filter_sizes=[1, 1, 3, 1],
            out_backprop=tf.ones((1, 4, 4, 3)),
            strides=[1, 1, 1],
            padding="SAME",
        )
    except (ValueError, tf.errors.OpError) as error:
        sys.exit(print(f"not reproduced: {type(error).__name__}"))
    print(f"DEFECT: no error, a result of shape {y.shape}")
    sys.exit(1)


main()
