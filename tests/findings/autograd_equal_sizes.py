"""Autograd: the gradient of scipy.signal.convolve calls itself without end.

For dX it convolves dy and w in mode "full". Where both have as many elements, and each is longer on
some axis, each order of the two is the wrong one.
"""

import sys

import numpy as np
from autograd import grad
from autograd.scipy.signal import convolve

w = np.ones((2, 1))
try:
    dx = grad(lambda x: convolve(x, w, mode="valid").sum())(np.ones((2, 2)))
except RecursionError as error:
    print(f"DEFECT: RecursionError: {error}")
    sys.exit(1)
print("not reproduced" if (dx == 1).all() else f"DEFECT: dX = {dx}")
