"""torch conv2d, float32: wrong forward for one input channel and one output column.

PyTorch 2.13.0 on a processor with AVX-512 (oneDNN's brg_conv_fwd), x with channels-last strides.
Strides (1, s > 1), kernel wider than 1, batch above 1 or, as PyTorch keeps one small sample from
oneDNN, kernel above 3 on both axes. Expected: y is the plain sums.
"""

import sys

import numpy as np
import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    wrong = 0
    for size, kernel, stride, filters in (((11, 8), (4, 5), 4, 2), ((5, 5), (3, 5), 2, 3)):
        x = rng.integers(-4, 5, (2, *size, 1)).astype(np.float32)
        w = rng.integers(-4, 5, (filters, 1, *kernel)).astype(np.float32)
        y = F.conv2d(torch.from_numpy(x).movedim(-1, 1), torch.from_numpy(w), stride=(1, stride))
        rows = [x[:, i : i + kernel[0], : kernel[1], 0] for i in range(y.shape[2])]
        want = np.stack([np.einsum("nhw,fhw->nf", row, w[:, 0]) for row in rows], axis=-1)
        wrong += int(np.sum(y[..., 0].numpy() != want))
    if not wrong:
        sys.exit(print("not reproduced"))
    print(f"DEFECT: {wrong} values of y are wrong")
    sys.exit(1)


main()
