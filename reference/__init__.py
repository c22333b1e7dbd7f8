"""The NumPy reference: convolution and its gradients, vectorised and as plain loops."""

from reference.conv import conv_backward, conv_forward
from reference.naive import naive_conv_backward, naive_conv_forward
from reference.problem import ConvGrads, ConvParams, ConvProblem, output_size, same_padding

__all__ = [
    "ConvGrads",
    "ConvParams",
    "ConvProblem",
    "conv_backward",
    "conv_forward",
    "naive_conv_backward",
    "naive_conv_forward",
    "output_size",
    "same_padding",
]
