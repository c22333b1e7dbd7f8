"""torch conv1d/2d/3d backward, float16: dW stops growing at 2048, summed over the batch in float16.

PyTorch 2.13.0, slow_conv2d/3d and slow_conv_transpose2d/3d (float16 where oneDNN has none,
bfloat16, at 256, with mkldnn off): each sample's dW is rounded and added in the narrow type.
Expected: 16384, which float16 holds; summed over positions (x (1,1,16384)) it is that.
"""

import sys

import torch
from torch.nn import functional as F


def main() -> None:
    """Exit with 1 if the defect shows."""
    torch.set_num_threads(1)
    for dtype, mkldnn in ((torch.float16, True), (torch.float16, False), (torch.bfloat16, False)):
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            x, w = torch.ones(16384, 1, 1, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype)
            dw = torch.autograd.grad(F.conv1d(x, w.requires_grad_()).sum(), w)[0].item()
        if dw != 16384:
            print(f"DEFECT: {dtype}, mkldnn {mkldnn}: dW = {dw:g}, but should be 16384")
            sys.exit(1)
    print("not reproduced")


main()
