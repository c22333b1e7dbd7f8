"""torch conv2d backward, groups > 1, channels-last weight, one HWC image as NCHW view: wrong dW.

PyTorch 2.13.0, slow_conv2d: float64 and float16 always, float32 and bfloat16 with mkldnn off; from
2 channels per group on. The strides of x are those of `image.permute(2, 0, 1)[None]`. Expected:
the dW of x.contiguous(). y and dX are right.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    image = torch.arange(8.0, dtype=torch.float64).reshape(1, 2, 4)  # height, width, channels
    x = image.permute(2, 0, 1)[None]
    w = torch.ones(2, 2, 1, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    w.requires_grad_()
    views = (x, x.contiguous())
    got, want = (torch.autograd.grad(F.conv2d(v, w, groups=2).sum(), w)[0] for v in views)
    if torch.equal(got, want):
        sys.exit(print("not reproduced"))
    print(f"DEFECT: dW = {got.ravel().tolist()}, but should be {want.ravel().tolist()}")
    sys.exit(1)


main()
