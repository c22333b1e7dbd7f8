"""torch conv2d backward, bfloat16, channels-last, stride > 1: dW is stale memory in unused taps.

PyTorch 2.13.0 (oneDNN), ranks 1 to 3, where a tap of the last axis reads only padding. Expected: 0.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    for _ in range(50):
        junk = [torch.full((size,), 1e9, dtype=torch.bfloat16) for size in range(8, 256, 8)]
        del junk
        x = torch.ones(1, 4, 1, 3, dtype=torch.bfloat16).movedim(-1, 1)
        w = torch.ones(2, 3, 3, 3, dtype=torch.bfloat16, requires_grad=True)
        dw = torch.autograd.grad(F.conv2d(x, w, stride=2, padding=1).sum(), w)[0]
        unused = dw[..., (0, 2)]
        if (unused != 0).any():
            most = unused.abs().max().item()
            print(f"DEFECT: {(unused != 0).sum()} values of dW are not 0, up to {most:g}")
            sys.exit(1)
    print("not reproduced")


main()
