"""What the reference has prepared for shapes that it has seen, and keeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reference import conv, depthwise, products, windows


def forget() -> None:
    """Let go of it, for what has been changed to be asked."""
    for module in (conv, depthwise, products, windows):
        for value in vars(module).values():
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()


@pytest.fixture
def nothing_prepared() -> Iterator[None]:
    """For a test that changes what the reference prepares by, and those after it."""
    forget()
    yield
    forget()
