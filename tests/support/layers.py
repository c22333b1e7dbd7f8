"""Layers of published networks, of 1e4 to 1e9 multiply-adds each: what convolutions are used for.

real_layers.jsonl has one JSON object a line.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reference.problem import Array, ConvParams, Size, output_size

_FILE = Path(__file__).parent / "real_layers.jsonl"


@dataclass(frozen=True)
class Layer:
    """Shapes of x (N, *S, C) and w (*K, C/groups, F), and the parameters."""

    network: str
    x: Size
    w: Size
    params: ConvParams

    @property
    def dy(self) -> Size:
        """(N, *O, F)."""
        return (self.x[0], *output_size(self.x[1:-1], self.w[:-2], self.params), self.w[-1])

    @property
    def products(self) -> int:
        """Multiply-adds of the forward; the backward has twice as many."""
        return math.prod(self.dy) * math.prod(self.w[:-1])

    @property
    def elements(self) -> int:
        """Those of x, w, y, dX and dW together."""
        return 2 * math.prod(self.x) + 2 * math.prod(self.w) + math.prod(self.dy)

    @property
    def kind(self) -> str:
        """One of dense, pointwise (of one tap), grouped, depthwise."""
        if self.params.groups > 1:
            return "depthwise" if self.w[-2] == 1 else "grouped"
        return "pointwise" if math.prod(self.w[:-2]) == 1 else "dense"

    def arrays(self, dtype: str) -> tuple[Array, Array, Array]:
        """Random x, w and dy, the same each time."""
        rng = np.random.default_rng(0)
        x, w, dy = (
            rng.standard_normal(shape, np.float32).astype(dtype, copy=False)
            for shape in (self.x, self.w, self.dy)
        )
        return x, w, dy

    def record(self) -> dict[str, Any]:
        """What a line of the file says."""
        return {
            "network": self.network,
            "batch": self.x[0],
            "in_channels": self.x[-1],
            "out_channels": self.w[-1],
            "groups": self.params.groups,
            "in_spatial": self.x[1:-1],
            "kernel": self.w[:-2],
            "stride": self.params.stride,
            "padding": self.params.padding,
            "dilation": self.params.dilation,
        }

    def __str__(self) -> str:
        x, w, stride = map(_sizes, (self.x[1:-1], self.w[:-2], self.params.stride))
        words = f"{self.network} {self.x[0]} of {x}, {self.x[-1]} to {self.w[-1]}, {w}"
        if max(self.params.stride) > 1:
            words += f", stride {stride}"
        return words + (f", {self.params.groups} groups" if self.params.groups > 1 else "")


@lru_cache(maxsize=1)
def real_layers() -> tuple[Layer, ...]:
    """All of the file."""
    return tuple(layer_of(json.loads(line)) for line in _FILE.read_text().splitlines())


def layer_of(record: dict[str, Any]) -> Layer:
    """The layer that a line of the file says."""
    groups, channels = record["groups"], record["in_channels"]
    padding = tuple(map(tuple, record["padding"]))
    return Layer(
        record["network"],
        (record["batch"], *record["in_spatial"], channels),
        (*record["kernel"], channels // groups, record["out_channels"]),
        ConvParams(tuple(record["stride"]), padding, tuple(record["dilation"]), groups),
    )


def _sizes(sizes: Size) -> str:
    return "x".join(map(str, sizes))
