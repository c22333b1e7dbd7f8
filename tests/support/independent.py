"""Choices for Hypothesis that are independent of one another: its backend `INDEPENDENT`.

Hypothesis' own backend makes three of four problems from the one before, by making one part of it
equal to another, favours small numbers and those that it finds in the code that has been imported,
and takes longer over it all than a framework over a problem. Here every number is as likely as any
other, and what is drawn depends on the seed alone. What fails is made small by Hypothesis itself.

A backend cannot aim: where `Phase.target` is to have an effect, Hypothesis' own is needed.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

INDEPENDENT = "independent"


class Independent(HypothesisProvider):
    """Booleans as Hypothesis has them, integers and bytes uniform, whatever else is its own."""

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        """One of the numbers between two; without bounds, as Hypothesis does."""
        if min_value is None or max_value is None:
            return super().draw_integer(
                min_value, max_value, weights=weights, shrink_towards=shrink_towards
            )
        assert self._random is not None  # there is one wherever something is drawn anew
        return self._random.randint(min_value, max_value)

    def draw_bytes(self, min_size: int = 0, max_size: int = 10**10) -> bytes:
        """So many bytes; if their number is open, as Hypothesis does."""
        if min_size != max_size:
            return super().draw_bytes(min_size, max_size)
        assert self._random is not None
        return self._random.randbytes(min_size)


AVAILABLE_PROVIDERS[INDEPENDENT] = Independent
