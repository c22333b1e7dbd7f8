"""torch conv3d backward, bfloat16, channels-last strides, few depths: dW has stale memory added.

PyTorch 2.13.0 (oneDNN), padding on the depth axis, input less deep than the kernel, stride 1, such
as depth 2, kernel 3, padding 1: some taps lose an output's share and start from what memory held.
Expected: dW as in float64.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    for _ in range(50):
        junk = [torch.full((size,), 1e9, dtype=torch.bfloat16) for size in range(32, 512, 32)]
        del junk
        x = torch.ones(1, 2, 4, 4, 3, dtype=torch.bfloat16).movedim(-1, 1)
        w = torch.ones(2, 3, 3, 3, 3, dtype=torch.bfloat16, requires_grad=True)
        dw = torch.autograd.grad(F.conv3d(x, w, padding=1).sum(), w)[0][0, 0, :, 1, 1].tolist()
        if dw != [16.0, 32.0, 16.0]:
            print(f"DEFECT: dW along the depth is {dw}, but should be {[16.0, 32.0, 16.0]}")
            sys.exit(1)
    print("not reproduced")


main()
