"""torch conv2d, float32, channels-last strides, bias: SIGSEGV where all columns lie in the padding.

PyTorch 2.13.0 (oneDNN's brgemm perform_outwork): on the last axis stride > 1, dilation > 1, two
outputs or more, and every tap of every output reads padding. Ranks 1 to 3. Expected: y = bias.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    torch.set_num_threads(1)
    x = torch.zeros(2, 1, 1, 2).movedim(-1, 1)
    w, b = torch.ones(2, 2, 1, 1), torch.ones(2)
    y = F.conv2d(x, w, b, stride=(1, 2), padding=(0, 1), dilation=(1, 2))
    if (y == 1).all():
        sys.exit(print("not reproduced"))
    print("DEFECT: y is not the bias")
    sys.exit(1)


main()
