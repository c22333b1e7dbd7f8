"""The ten cases of the notebook "Convolution Operation Naive Backward Pass", with `==` as in it.

The notebook prints cases 1 to 6 and announces 7 to 10. Its recipe: x counts up from 0, w down to
4, the bias is 10, 20, ..., dY is all ones. The printed numbers stand here as printed; what it does
not print (all of 7 to 10, dW of 5 and 6, L of 2, 6 and 7 to 10) was worked out once with
naive_conv_backward in rational arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from oracles.worker import Connection
from reference import (
    ConvGrads,
    ConvParams,
    ConvProblem,
    conv_backward,
    conv_forward,
    naive_conv_backward,
    naive_conv_forward,
)
from reference.problem import Array
from tests.support.verification import Verification


@dataclass(frozen=True)
class Case:
    """One case: shapes x (N, H, W, C) and w (KH, KW, C, F), and the gradients as printed text."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    bias: bool
    L: int
    dx: str
    dw: str
    db: str = ""
    stride: int = 1
    padding: int = 0

    @property
    def problem(self) -> ConvProblem:
        """The case with the notebook's data."""
        x = float_sequence(self.x)
        w = np.float32(np.prod(self.w) + 3) - float_sequence(self.w)
        b = 10 + 10 * float_sequence(self.w[-1:]) if self.bias else None
        params = ConvParams.of(self.x, self.w, stride=self.stride, padding=self.padding)
        dy = np.ones_like(conv_forward(x, w, b, params))
        return ConvProblem(x, w, b, dy, params)

    def check(self, grads: ConvGrads) -> None:
        """Assert that every gradient, and L if y was computed, has the notebook's values."""
        assert np.all(grads.dx == matrix(self.dx, self.x))
        assert np.all(grads.dw == matrix(self.dw, self.w))
        if self.bias:
            assert np.all(grads.db == matrix(self.db, self.w[-1:]))
        if grads.y is not None:
            assert grads.y.sum(dtype=np.float64) == self.L


def float_sequence(shape: tuple[int, ...]) -> Array:
    """0, 1, 2, ... in float32, as in the notebook."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def matrix(text: str, shape: tuple[int, ...]) -> Array:
    """Printed numbers as an array."""
    return np.array(text.split(), np.float32).reshape(shape)


CASES = (
    Case(
        "1. Basic",
        x=(1, 4, 4, 1),
        w=(3, 3, 1, 1),
        bias=False,
        L=1848,
        dx="""
            12 23 21 10
            21 40 36 17
            15 28 24 11
            6 11 9 4
        """,
        dw="""
            10 14 18
            26 30 34
            42 46 50
        """,
    ),
    Case(
        "2. Padding",
        x=(1, 4, 4, 1),
        w=(3, 3, 1, 1),
        bias=False,
        padding=1,
        L=5610,
        dx="""
            40 57 57 36
            51 72 72 45
            51 72 72 45
            28 39 39 24
        """,
        dw="""
            45 66 54
            84 120 96
            81 114 90
        """,
    ),
    Case(
        "3. Stride",
        x=(1, 7, 7, 1),
        w=(3, 3, 1, 1),
        bias=False,
        stride=2,
        L=14364,
        dx="""
            12 11 22 11 22 11 10
            9 8 16 8 16 8 7
            18 16 32 16 32 16 14
            9 8 16 8 16 8 7
            18 16 32 16 32 16 14
            9 8 16 8 16 8 7
            6 5 10 5 10 5 4
        """,
        dw="""
            144 153 162
            207 216 225
            270 279 288
        """,
    ),
    Case(
        "4. Padding and Stride",
        x=(1, 7, 7, 1),
        w=(3, 3, 1, 1),
        bias=False,
        stride=2,
        padding=1,
        L=19200,
        dx="""
            8 16 8 16 8 16 8
            16 32 16 32 16 32 16
            8 16 8 16 8 16 8
            16 32 16 32 16 32 16
            8 16 8 16 8 16 8
            16 32 16 32 16 32 16
            8 16 8 16 8 16 8
        """,
        dw="""
            216 288 216
            288 384 288
            216 288 216
        """,
    ),
    Case(
        "5. Channel",
        x=(1, 4, 4, 3),
        w=(3, 3, 3, 1),
        bias=False,
        L=34650,
        dx="""
            30 29 28 57 55 53 51 49 47 24 23 22
            51 49 47 96 92 88 84 80 76 39 37 35
            33 31 29 60 56 52 48 44 40 21 19 17
            12 11 10 21 19 17 15 13 11 6 5 4
        """,
        dw="""
            30 34 38 42 46 50 54 58 62
            78 82 86 90 94 98 102 106 110
            126 130 134 138 142 146 150 154 158
        """,
    ),
    Case(
        "6. Channel and bias",
        x=(1, 4, 4, 3),
        w=(3, 3, 3, 1),
        bias=True,
        L=34690,
        dx="""
            30 29 28 57 55 53 51 49 47 24 23 22
            51 49 47 96 92 88 84 80 76 39 37 35
            33 31 29 60 56 52 48 44 40 21 19 17
            12 11 10 21 19 17 15 13 11 6 5 4
        """,
        dw="""
            30 34 38 42 46 50 54 58 62
            78 82 86 90 94 98 102 106 110
            126 130 134 138 142 146 150 154 158
        """,
        db="4",
    ),
    Case(
        "7. Multiple Filters",
        x=(1, 4, 4, 3),
        w=(3, 3, 3, 4),
        bias=False,
        L=447804,
        dx="""
            438 422 406 828 796 764 732 700 668 342 326 310
            732 700 668 1368 1304 1240 1176 1112 1048 540 508 476
            444 412 380 792 728 664 600 536 472 252 220 188
            150 134 118 252 220 188 156 124 92 54 38 22
        """,
        dw="""
            30 30 30 30 34 34 34 34 38 38 38 38
            42 42 42 42 46 46 46 46 50 50 50 50
            54 54 54 54 58 58 58 58 62 62 62 62
            78 78 78 78 82 82 82 82 86 86 86 86
            90 90 90 90 94 94 94 94 98 98 98 98
            102 102 102 102 106 106 106 106 110 110 110 110
            126 126 126 126 130 130 130 130 134 134 134 134
            138 138 138 138 142 142 142 142 146 146 146 146
            150 150 150 150 154 154 154 154 158 158 158 158
        """,
    ),
    Case(
        "8. Multiple Filters + bias",
        x=(1, 4, 4, 3),
        w=(3, 3, 3, 4),
        bias=True,
        L=448204,
        dx="""
            438 422 406 828 796 764 732 700 668 342 326 310
            732 700 668 1368 1304 1240 1176 1112 1048 540 508 476
            444 412 380 792 728 664 600 536 472 252 220 188
            150 134 118 252 220 188 156 124 92 54 38 22
        """,
        dw="""
            30 30 30 30 34 34 34 34 38 38 38 38
            42 42 42 42 46 46 46 46 50 50 50 50
            54 54 54 54 58 58 58 58 62 62 62 62
            78 78 78 78 82 82 82 82 86 86 86 86
            90 90 90 90 94 94 94 94 98 98 98 98
            102 102 102 102 106 106 106 106 110 110 110 110
            126 126 126 126 130 130 130 130 134 134 134 134
            138 138 138 138 142 142 142 142 146 146 146 146
            150 150 150 150 154 154 154 154 158 158 158 158
        """,
        db="4 4 4 4",
    ),
    Case(
        "9. Mini-batch + bias",
        x=(3, 4, 4, 3),
        w=(3, 3, 3, 4),
        bias=True,
        L=4921572,
        dx="""
            438 422 406 828 796 764 732 700 668 342 326 310
            732 700 668 1368 1304 1240 1176 1112 1048 540 508 476
            444 412 380 792 728 664 600 536 472 252 220 188
            150 134 118 252 220 188 156 124 92 54 38 22
            438 422 406 828 796 764 732 700 668 342 326 310
            732 700 668 1368 1304 1240 1176 1112 1048 540 508 476
            444 412 380 792 728 664 600 536 472 252 220 188
            150 134 118 252 220 188 156 124 92 54 38 22
            438 422 406 828 796 764 732 700 668 342 326 310
            732 700 668 1368 1304 1240 1176 1112 1048 540 508 476
            444 412 380 792 728 664 600 536 472 252 220 188
            150 134 118 252 220 188 156 124 92 54 38 22
        """,
        dw="""
            666 666 666 666 678 678 678 678 690 690 690 690
            702 702 702 702 714 714 714 714 726 726 726 726
            738 738 738 738 750 750 750 750 762 762 762 762
            810 810 810 810 822 822 822 822 834 834 834 834
            846 846 846 846 858 858 858 858 870 870 870 870
            882 882 882 882 894 894 894 894 906 906 906 906
            954 954 954 954 966 966 966 966 978 978 978 978
            990 990 990 990 1002 1002 1002 1002 1014 1014 1014 1014
            1026 1026 1026 1026 1038 1038 1038 1038 1050 1050 1050 1050
        """,
        db="12 12 12 12",
    ),
    Case(
        "10. RGB Mini-batch * Multiple Filters with stride and padding",
        x=(3, 7, 7, 3),
        w=(3, 3, 3, 4),
        bias=True,
        stride=2,
        padding=1,
        L=45535200,
        dx="""
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
            492 460 428 984 920 856 492 460 428 984 920 856 492 460 428 984 920 856 492 460 428
            246 230 214 492 460 428 246 230 214 492 460 428 246 230 214 492 460 428 246 230 214
        """,
        dw="""
            5913 5913 5913 5913 5940 5940 5940 5940 5967 5967 5967 5967
            7884 7884 7884 7884 7920 7920 7920 7920 7956 7956 7956 7956
            5913 5913 5913 5913 5940 5940 5940 5940 5967 5967 5967 5967
            7884 7884 7884 7884 7920 7920 7920 7920 7956 7956 7956 7956
            10512 10512 10512 10512 10560 10560 10560 10560 10608 10608 10608 10608
            7884 7884 7884 7884 7920 7920 7920 7920 7956 7956 7956 7956
            5913 5913 5913 5913 5940 5940 5940 5940 5967 5967 5967 5967
            7884 7884 7884 7884 7920 7920 7920 7920 7956 7956 7956 7956
            5913 5913 5913 5913 5940 5940 5940 5940 5967 5967 5967 5967
        """,
        db="48 48 48 48",
    ),
)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_reference(case: Case) -> None:
    """The vectorised reference has the notebook's values."""
    p = case.problem
    grads = conv_backward(p.x, p.w, p.dy, p.params)
    case.check(ConvGrads(grads.dx, grads.dw, grads.db, conv_forward(p.x, p.w, p.b, p.params)))


@each_case
def test_naive(case: Case) -> None:
    """The naive loops have the notebook's values."""
    p = case.problem
    grads = naive_conv_backward(p.x, p.w, p.dy, p.params)
    case.check(ConvGrads(grads.dx, grads.dw, grads.db, naive_conv_forward(p.x, p.w, p.b, p.params)))


@each_case
def test_oracle(case: Case, oracle: Connection, verification: Verification) -> None:
    """Every oracle has the notebook's values, and agrees with the reference."""
    verification.verify(oracle, case.problem)
    case.check(oracle.grads(case.problem))


def test_the_check_can_fail() -> None:
    """One wrong element, in any gradient or in y, does not pass."""
    case = CASES[-1]
    p = case.problem
    right = conv_backward(p.x, p.w, p.dy, p.params)
    y = conv_forward(p.x, p.w, p.b, p.params)
    for name in ("dx", "dw", "db", "y"):
        results = {"dx": right.dx, "dw": right.dw, "db": right.db, "y": y}
        results[name] = results[name].copy()
        results[name].flat[-1] += 1
        with pytest.raises(AssertionError):
            case.check(ConvGrads(**results))
