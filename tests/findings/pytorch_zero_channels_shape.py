"""torch conv2d with 0 input channels: y has 0 channels, not one per filter.

PyTorch 2.13.0, ranks 1 to 3. Expected: y of shape (1, 2, 3, 3), the bias and nothing more.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    y = F.conv2d(torch.ones(1, 0, 3, 3), torch.ones(2, 0, 1, 1), torch.ones(2))
    if y.shape == (1, 2, 3, 3) and (y == 1).all():
        sys.exit(print("not reproduced"))
    print(f"DEFECT: y has shape {tuple(y.shape)}, but should have (1, 2, 3, 3)")
    sys.exit(1)


main()
