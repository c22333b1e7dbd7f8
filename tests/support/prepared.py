"""What the reference has prepared for shapes that it has seen, and keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


def forget() -> None:
    """Let go of it, for what has been changed to be asked."""
    of_reference = [module for name, module in sys.modules.items() if name.startswith("reference.")]
    for module in of_reference:
        for value in vars(module).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()


@pytest.fixture
def nothing_prepared() -> Iterator[None]:
    """For a test that changes what the reference prepares by, and those after it."""
    forget()
    yield
    forget()
