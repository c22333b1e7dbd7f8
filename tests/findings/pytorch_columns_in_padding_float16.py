"""torch conv2d, float16, any memory format, no bias: SIGSEGV, all columns lie in the padding.

PyTorch 2.13.0 (oneDNN, AVX512-FP16; gone with ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16): as
pytorch_columns_in_padding.py, but without the bias that float32 needs. Expected: y = 0.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    torch.set_num_threads(1)
    x = torch.ones(1, 1, 1, 2, dtype=torch.float16).movedim(-1, 1)
    w = torch.ones(2, 2, 1, 1, dtype=torch.float16)
    y = F.conv2d(x, w, stride=(1, 2), padding=(0, 1), dilation=(1, 2))
    if (y == 0).all():
        sys.exit(print("not reproduced"))
    print("DEFECT: y is not 0")
    sys.exit(1)


main()
