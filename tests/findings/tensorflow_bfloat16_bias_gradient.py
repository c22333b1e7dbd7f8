"""tf.nn.bias_add, bfloat16: the bias gradient stops growing at 256.

TensorFlow 2.21.0, BiasAddGrad on CPU adds up in bfloat16 (float16 does not). Expected: 16384, which
bfloat16 holds.
"""

import os
import sys

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    for dtype in (tf.bfloat16, tf.float16):
        db = float(tf.raw_ops.BiasAddGrad(out_backprop=tf.ones((1, 128, 128, 1), dtype))[0])
        if db != 16384:
            print(f"DEFECT: {dtype.name}: db = {db:g}, but should be 16384")
            sys.exit(1)
    print("not reproduced")


main()
