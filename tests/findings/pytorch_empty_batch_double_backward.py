"""torch conv2d, empty batch: the second-order gradients are refused, the graph is cut.

PyTorch 2.13.0: the first gradients say that they require grad, but depend on nothing. F.linear
takes it. Expected: empty and zero gradients.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    x = torch.ones(0, 1, 2, 2, requires_grad=True)
    w = torch.ones(1, 1, 1, 1, requires_grad=True)
    dx, dw = torch.autograd.grad(F.conv2d(x, w).sum(), (x, w), create_graph=True)
    try:
        torch.autograd.grad(dx.sum() + dw.sum(), (x, w))
    except RuntimeError as error:
        print(f"DEFECT: {error}")
        sys.exit(1)
    print("not reproduced")


main()
