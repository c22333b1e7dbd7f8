"""tf.nn.depthwise_conv2d, float16: dW stops growing at 2048.

TensorFlow 2.21.0, Eigen's DepthwiseConv2dNativeBackpropFilter adds up in float16 (bfloat16: at
256). It is used without oneDNN, and where oneDNN has no float16, for want of AVX512-FP16.
Expected: 16384, which float16 holds.
"""

import os
import sys

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")


def main() -> None:
    """Exit with 1 if the defect shows."""
    import tensorflow as tf

    x, w = tf.ones((1, 16384, 1, 1), tf.float16), tf.ones((1, 1, 1, 1), tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "VALID")
    dw = float(tf.squeeze(tape.gradient(y, w)))
    if dw == 16384:
        sys.exit(print("not reproduced"))
    print(f"DEFECT: dW = {dw:g}, but should be 16384")
    sys.exit(1)


main()
