"""tf.nn.conv3d with an x of rank 1: the process aborts.

TensorFlow 2.21.0 (oneDNN): a CHECK in tensor_format.h; the raw Conv2D and the filter gradients too.
Expected: an error, as with TF_ENABLE_ONEDNN_OPTS=0.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    import tensorflow as tf

    try:
        y = tf.nn.conv3d(tf.ones(6), tf.ones(6), [1, 1, 1, 1, 1], "VALID")
    except (ValueError, tf.errors.OpError) as error:
        sys.exit(print(f"not reproduced: {type(error).__name__}"))
    print(f"DEFECT: no error, a result of shape {y.shape}")
    sys.exit(1)


main()
