"""torch conv2d backward, float32, 1x1 kernel, stride > 1, under 16 channels: heap corruption.

PyTorch 2.13.0, x with channels-last strides (oneDNN's jit_1x1 backward weights writes past its
workspace, oneDNN#6035), one group, more than 512 outputs per sample with one thread. Expected:
every element of dW is the number of outputs, and no process dies.
"""

import sys

import torch
from torch.nn import functional as F

CASES = ((15, 4, (2, 2)), (5, 16, (1, 2)), (7, 16, (2, 2)), (3, 8, (1, 2)))


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    torch.set_num_threads(1)
    for call in range(400):
        for channels, filters, stride in CASES:
            x = torch.ones(2, 64, 64, channels).movedim(-1, 1)
            w = torch.ones(filters, channels, 1, 1, requires_grad=True)
            y = F.conv2d(x, w, stride=stride)
            y.backward(torch.ones_like(y))
            if (w.grad != y.numel() // filters).any():
                print(f"DEFECT: dW is wrong in call {call}")
                sys.exit(1)
    print("not reproduced")


main()
