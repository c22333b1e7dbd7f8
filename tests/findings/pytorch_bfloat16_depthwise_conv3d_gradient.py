"""torch conv3d backward, bfloat16, depthwise, channels-last strides: wrong dW, at times wrong db.

PyTorch 2.13.0 (oneDNN), one output row from one input row, stride 2 and padding on that axis.
Expected: dW as in float64, db = 20, the number of outputs.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    x = torch.ones(1, 4, 1, 5, 2, dtype=torch.bfloat16).movedim(-1, 1)
    w = torch.ones(2, 1, 1, 3, 1, dtype=torch.bfloat16, requires_grad=True)
    b = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    y = F.conv3d(x, w, b, stride=(1, 2, 1), padding=(0, 1, 0), groups=2)
    dw, db = (grad.ravel().tolist() for grad in torch.autograd.grad(y.sum(), (w, b)))
    if dw == [0, 20, 0] * 2 and db == [20, 20]:
        sys.exit(print("not reproduced"))
    print(f"DEFECT: dW = {dw}, db = {db}, but should be {[0, 20, 0] * 2} and {[20, 20]}")
    sys.exit(1)


main()
