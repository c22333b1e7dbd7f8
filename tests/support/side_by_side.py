"""One oracle under several interpreters in one run: what has changed between them."""

from __future__ import annotations

from collections.abc import Sequence

from oracles.registry import Entry
from reference.rounding import RESULTS
from tests.support.reporting import Count, Tally

_SLOWER = 1.25  # times as slow, or as fast, that are worth a word


def change_lines(entries: Sequence[Entry], tally: Tally) -> list[str]:
    """For each oracle that is asked under several interpreters: verdicts, precision and speed.

    Each is compared with the one named first.
    """
    lines = []
    for first, *others in _alike(entries, tally):
        for other in others:
            pair = [tally.counts[entry.name] for entry in (first, other)]
            rows = [("", first.version or "-", other.version or "-", ""), *_rows(*pair)]
            widths = [max(map(len, column)) for column in zip(*rows)]
            lines.append(f"{first.name} -> {other.name}")
            lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return lines


def _alike(entries: Sequence[Entry], tally: Tally) -> list[list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.name in tally.counts:
            found.setdefault(entry.name.partition("@")[0], []).append(entry)
    return [alike for alike in found.values() if len(alike) > 1]


def _rows(old: Count, new: Count) -> list[tuple[str, str, str, str]]:
    names = {"dx": "dX", "dw": "dW", "db": "db", "y": "y"}
    cells = [(names[name], old.cell(name), new.cell(name)) for name in RESULTS]
    cells.append(("left out by ledger", f"{old.left_out:,}", f"{new.left_out:,}"))
    cells.append(("error/bound", f"{old.ratio:.3f}", f"{new.ratio:.3f}"))
    for dtype in dict.fromkeys((*old.bits, *new.bits)):
        was, now = (
            str(min(count.bits.get(dtype, {}).values(), default="-")) for count in (old, new)
        )
        cells.append((f"bits of {dtype}", was, now))
    rows = [(name, was, now, "" if was == now else "changed") for name, was, now in cells]
    slow = [1000 * count.seconds / max(1, count.problems) for count in (old, new)]
    ratio = slow[1] / max(slow[0], 1e-9)
    words = "" if 1 / _SLOWER < ratio < _SLOWER else f"{ratio:.2f} times"
    return [*rows, ("ms a problem", f"{slow[0]:.2f}", f"{slow[1]:.2f}", words)]
