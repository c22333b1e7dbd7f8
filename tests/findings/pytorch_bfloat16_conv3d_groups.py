"""torch conv3d, bfloat16, channels-last strides, depth 1: wrong y in all groups but the first.

PyTorch 2.13.0 (oneDNN), one channel per group, 2 filters per group or more, a deeper kernel: those
groups read weights that were never written. Expected: y as in float64.
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
        x = torch.ones(1, 1, 4, 4, 2, dtype=torch.bfloat16).movedim(-1, 1)
        w = torch.ones(4, 1, 3, 3, 3, dtype=torch.bfloat16)
        y = F.conv3d(x, w, padding=1, groups=2)[0, :, 0, 1, 1].tolist()
        if y != [9.0] * 4:
            print(f"DEFECT: y in the middle, by channel, is {y}, but should be {[9.0] * 4}")
            sys.exit(1)
    print("not reproduced")


main()
