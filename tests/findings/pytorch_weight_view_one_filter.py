"""torch conv2d backward refuses a weight that is a view, if it has one filter.

PyTorch 2.13.0, slow_conv2d: a (K, K, C, 1) array permuted to (1, C, K, K) gives "grad_weight must
be contiguous". Expected: the gradients of weight.contiguous().
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    x = torch.ones(1, 7, 3, 15).movedim(-1, 1)
    w = torch.ones(3, 2, 15, 1).permute(3, 2, 0, 1).requires_grad_()
    try:
        torch.autograd.grad(F.conv2d(x, w).sum(), w)
    except RuntimeError as error:
        print(f"DEFECT: {error}")
        sys.exit(1)
    print("not reproduced")


main()
