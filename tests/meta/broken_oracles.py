"""Objects that are nearly oracles, for the errors that say what they lack."""

from __future__ import annotations

from types import SimpleNamespace

from oracles.protocol import Box, Domain

BOX = Box(ranks=(1,), dtypes=("float32",))

box = SimpleNamespace(distribution=None, domain=BOX, grads=print)
number = SimpleNamespace(distribution=5, domain=Domain(BOX), grads=print)
