"""Gradients that other projects have published as literals, against the reference and the loops.

data/published_gradients.jsonl has one JSON object a line: where it is from, the parameters, the
arrays that the source gives, and the gradient that it expects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import ConvParams, conv_backward, naive_conv_backward, output_size

_FILE = Path(__file__).parent / "data" / "published_gradients.jsonl"
RECORDS: list[dict[str, Any]] = [json.loads(line) for line in _FILE.read_text().splitlines()]


def published_arrays(record: dict[str, Any], dtype: type) -> dict[str, Any]:
    """x, w, dy and params; a source that tests dX gives no x, one that tests dW no w."""
    spatial, kernel, groups = record["in_spatial"], record["kernel"], record["groups"]
    channels, filters = record["in_channels"], record["out_channels"]
    params = ConvParams(record["stride"], record["padding"], record["dilation"], groups)
    shapes = {
        "x": (record["batch"], *spatial, channels),
        "w": (*kernel, channels // groups, filters),
        "dy": (record["batch"], *output_size(spatial, kernel, params), filters),
    }
    arrays: dict[str, Any] = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    for name, values in record["arrays"].items():
        arrays[name][...] = values
    return {**arrays, "params": params}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backward", [conv_backward, naive_conv_backward])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])
def test_published(record: dict[str, Any], backward: Any, dtype: type) -> None:
    """The published gradient, to the last bit."""
    grads = backward(**published_arrays(record, dtype))
    for name, values in record["expected"].items():
        expected = np.array(values, dtype)
        got = getattr(grads, name)
        assert got.shape == expected.shape
        assert np.all(got == expected)


def test_all_of_them_are_here() -> None:
    """The corpus is whole: 51 gradients, of x and of w, of all three ranks."""
    assert len(RECORDS) == 51
    assert {name for record in RECORDS for name in record["expected"]} == {"dx", "dw"}
    assert {record["rank"] for record in RECORDS} == {1, 2, 3}
