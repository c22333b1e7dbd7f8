"""Messages between pytest and an oracle's process: a JSON header, then raw bytes. Never pickle.

The process that answers runs code nobody vouches for, so an answer is only ever read as numbers:
its header is JSON, every array is a plain numeric dtype, a shape and as many bytes as those need.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from oracles.protocol import GRADIENTS, RESULTS, Malformed, Raised
from reference.layout import strides_of, with_strides
from reference.problem import Array, ConvGrads, ConvParams, ConvProblem

with contextlib.suppress(ImportError):  # another interpreter may do without bfloat16
    import ml_dtypes  # noqa: F401  # makes NumPy know it

_FRAME = struct.Struct(">IQ")  # bytes of header, bytes of body
_MAX_HEADER = 1 << 20
_BUFFER = bytearray(1 << 16)  # one for all: a new one for each message costs more than the message
_NUMERIC_DTYPE = re.compile(r"[<>|]?[biufc][0-9]{1,2}|bfloat16")


class Inbox:
    """Bytes as they come in, cut into messages; `limit` is the largest body that is taken."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes = bytearray()

    @property
    def waiting(self) -> int:
        """How many bytes there are of a message that is not whole yet."""
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._bytes += data

    def receive(self, channel: socket.socket) -> int:
        """Add what can be received from `channel`; the number of bytes, 0 at its end."""
        count = channel.recv_into(_BUFFER)
        self._bytes += memoryview(_BUFFER)[:count]
        return count

    def message(self) -> tuple[dict[str, Any], bytearray] | None:
        """The header and body of the next whole message, or None; raises Malformed for garbage.

        The body is the taker's own.
        """
        if len(self._bytes) < _FRAME.size:
            return None
        header_size, body_size = _FRAME.unpack_from(self._bytes)
        if header_size > _MAX_HEADER or body_size > self.limit:
            raise Malformed(
                f"answers with {header_size} + {body_size} bytes, of at most {_MAX_HEADER} + "
                f"{self.limit}"
            )
        start, end = _FRAME.size + header_size, _FRAME.size + header_size + body_size
        if len(self._bytes) < end:
            return None
        try:
            header = json.loads(self._bytes[_FRAME.size : start].decode())
        except (ValueError, RecursionError) as error:
            raise Malformed(f"answers with a header that is not JSON ({error})") from None
        if not isinstance(header, dict):
            raise Malformed(f"answers with a header that is a {type(header).__name__}")
        body = self._bytes[start:end]
        del self._bytes[:end]
        return header, body


def frame(header: Mapping[str, Any], *buffers: bytes) -> bytes:
    """One message, ready to be sent."""
    head = json.dumps(header).encode()
    return _FRAME.pack(len(head), sum(map(len, buffers))) + head + b"".join(buffers)


def encode_problem(problem: ConvProblem, number: int = 0) -> bytes:
    """`problem` as message `number`; raises Raised for numbers that cannot be sent."""
    if not _is_numeric(_code(problem.dtype)):
        raise Raised(f"refuses dtype {problem.dtype}: it cannot be sent to another process")
    params = problem.params
    header = {
        "number": number,
        "stride": params.stride,
        "padding": params.padding,
        "dilation": params.dilation,
        "groups": params.groups,
    }
    arrays = {"x": problem.x, "w": problem.w, "b": problem.b, "dy": problem.dy}
    header["strides"] = {
        name: strides
        for name, array in arrays.items()
        if array is not None and (strides := strides_of(array)) is not None
    }
    header["read-only"] = [
        name for name, array in arrays.items() if array is not None and not array.flags.writeable
    ]
    return _with_arrays(header, arrays)


def decode_problem(header: Mapping[str, Any], body: bytearray) -> ConvProblem:
    """The problem in a message from pytest, its arrays in memory as they were there."""
    arrays = _arrays(header, body)
    for name, strides in header["strides"].items():
        arrays[name] = with_strides(arrays[name], tuple(strides))
    for name in header["read-only"]:
        arrays[name].flags.writeable = False
    params = ConvParams(header["stride"], header["padding"], header["dilation"], header["groups"])
    return ConvProblem(arrays["x"], arrays["w"], arrays.get("b"), arrays["dy"], params)


def encode_grads(grads: ConvGrads, number: int = 0) -> bytes:
    """`grads` as the answer to message `number`; raises Malformed if they are no plain numbers."""
    arrays = {"dx": grads.dx, "dw": grads.dw, "db": grads.db, "y": grads.y}
    for name, array in arrays.items():
        if array is not None and not _is_numeric(_code(array.dtype)):
            raise Malformed(f"answers with {name} of dtype {array.dtype}, which is no plain number")
    return _with_arrays({"status": "answered", "number": number}, arrays)


def decode_grads(
    header: Mapping[str, Any], body: bytearray, results: tuple[str, ...] = GRADIENTS
) -> ConvGrads:
    """The gradients in an answer; raises Malformed if the message is not what it should be.

    `results` must be among them, but for db.
    """
    arrays = _arrays(header, body)
    if not set(results) - {"db"} <= set(arrays) <= set(RESULTS):
        raise Malformed(
            f"answers with the arrays {sorted(map(str, arrays))}, not with dx, dw, db, y"
        )
    named: dict[str, Any] = {name: arrays.get(name) for name in RESULTS}
    return ConvGrads(**named)


def _with_arrays(header: dict[str, Any], arrays: Mapping[str, Array | None]) -> bytes:
    present = {name: array for name, array in arrays.items() if array is not None}
    header["arrays"] = [[n, _code(array.dtype), array.shape] for n, array in present.items()]
    return frame(header, *(array.tobytes() for array in present.values()))


@lru_cache(maxsize=64)
def _is_numeric(code: str) -> bool:
    return _NUMERIC_DTYPE.fullmatch(code) is not None


@lru_cache(maxsize=64)
def _code(dtype: np.dtype[Any]) -> str:
    """What stands for `dtype` in a header: NumPy's own, which bfloat16 has none of."""
    return "bfloat16" if dtype.name == "bfloat16" else dtype.str


def _arrays(header: Mapping[str, Any], body: bytearray) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    start = 0
    try:
        for name, dtype_name, shape in header["arrays"]:
            if not _is_numeric(dtype_name) or any(size < 0 for size in shape):
                raise ValueError(f"{name} has dtype {dtype_name!r} and shape {shape}")
            dtype = np.dtype(dtype_name)
            count = math.prod(shape)
            values = np.frombuffer(body, dtype, count, start) if count else np.zeros(0, dtype)
            arrays[name] = values.reshape(shape)
            start += count * dtype.itemsize
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"answers with arrays that cannot be read: {error}") from None
    if start != len(body):
        raise Malformed(f"answers with {len(body)} bytes where its arrays need {start}")
    return arrays
