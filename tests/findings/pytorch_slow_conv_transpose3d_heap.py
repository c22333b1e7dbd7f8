"""torch slow_conv_transpose3d with a kernel_size that contradicts the weight: heap corruption.

PyTorch 2.13.0: the buffer is sized by kernel_size, the product by the weight. Expected: an error.
"""

import sys

import torch


def main() -> None:
    """Exit with 1, or die, if the defect shows."""
    torch.set_num_threads(1)
    x, w = torch.ones(1, 2, 4, 5, 4), torch.ones(2, 3, 2, 3, 2)
    for _ in range(200):
        try:
            y = torch.ops.aten.slow_conv_transpose3d(x, w, [1, 1, 1])
        except RuntimeError as error:
            sys.exit(print(f"not reproduced: {error}"))
    print(f"DEFECT: no error, y has shape {tuple(y.shape)}")
    sys.exit(1)


main()
