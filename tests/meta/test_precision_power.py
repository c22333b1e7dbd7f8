"""The table of who sees small losses of precision: its words, and what it does without running."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.benchmarks.precision_power import (
    OURS,
    PEERS,
    Evaluations,
    Layer,
    Peer,
    Table,
    column_cells,
    duration,
    ours,
)

NAMES = ("right", "right_float64", "tf32_inputs", "float64_in_float32")
COLUMNS = (*OURS, "peer")


def table(*of_peer: bool | str) -> Table:
    """Ours all content, and what a peer says of each of NAMES."""
    cells = {(name, "small"): [True] * 4 + [cell] for name, cell in zip(NAMES, of_peer)}
    return Table(COLUMNS, cells, ("small",), NAMES)


@pytest.mark.parametrize(
    ("of_peer", "words", "count"),
    [
        ((True, True, True, False), ("passes", "passes", "missed", "caught"), "1 of 11; 0 of 4"),
        (
            (False, True, False, False),
            ("**false alarm**", "passes", "alarms anyway", "caught"),
            "1 of 11; 1 of 4",
        ),
        (("not installed",) * 4, ("not installed",) * 4, "not installed"),
        (("not feasible: 9",) * 4, ("not feasible: 9",) * 4, "not feasible"),
    ],
)
def test_words(of_peer: Sequence[bool | str], words: Sequence[str], count: str) -> None:
    """An alarm counts if the right backward of the same dtype raises none."""
    found = table(*of_peer)
    assert tuple(found.cell(name, "small", "peer") for name in NAMES) == words
    count = count.replace("11", "2").replace("of 4", "of 2")
    assert found.summary()[-1] == ["peer", count]
    assert found.summary()[0] == ["**ours, together**", "0 of 2; 0 of 2"]


def test_the_table_is_written() -> None:
    """With the command, the versions, every oracle and size."""
    text = table(True, True, True, False).markdown("python -m x", ["jax 1"])
    assert "`python -m x` with jax 1" in text
    assert "## small: x (2, 6, 6, 3), w (3, 3, 3, 4)" in text
    assert "| `tf32_inputs` | missed | missed | missed | missed | missed |" in text
    assert "- `tf32_inputs`: x, w and dy are rounded to TF32" in text


def test_what_would_take_too_long_is_not_run() -> None:
    """It is said how long, from a forward and backward that were measured."""

    def run(layer: Layer) -> list[bool]:
        raise AssertionError("it was run")

    slow = Peer(("one", "two"), ("numpy",), run, lambda i, o: Evaluations(i * 10**9, o))
    words, again = slow.cells("tf32_inputs", "small")
    assert words == again
    assert str(words).startswith("not feasible: 328,000,000,288 evaluations, about ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(61, "1.0 min"), (900, "15 min"), (7200, "2.0 h"), (86_400 * 345.6, "350 days")],
)
def test_duration(seconds: float, words: str) -> None:
    """Two digits, which is all that an extrapolation is worth."""
    assert duration(seconds) == words


def test_a_peer_that_is_not_installed() -> None:
    """It has no version, and is not asked."""
    assert Peer(("one",), ("no-such-distribution",), lambda _: [True]).version is None


def test_ours() -> None:
    """Each of our checks is asked: nothing against the right one, and what is seen of TF32."""
    assert ours("right", "small") == [True] * 4
    assert ours("tf32_inputs", "small") == [True, False, False, False]


def test_pytorch_is_run() -> None:
    """In a process of its own; in float64 a backward in float32 passes, a wrong one does not."""
    [peer] = [peer for peer in PEERS if peer.columns == ("gradcheck slow, float64",)]
    cells = column_cells(peer.cells, ["right", "dx_sign_flipped"], ["small"])
    assert [*cells.values()] == [[True], [False]]
