"""Hypothesis' backend of ours: what it draws is independent, depends on the seed, shrinks."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase, given, seed, settings, target
from hypothesis import strategies as st

from oracles.protocol import Box, Domain
from oracles.registry import find
from reference import ConvProblem
from tests.support.ahead import draw
from tests.support.classes import ask_one, regions
from tests.support.independent import INDEPENDENT
from tests.support.power import stream
from tests.support.strategies import problems

ROOT = Path(__file__).resolve().parents[2]
PAIRS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def drawn(strategy: st.SearchStrategy[Any], count: int, backend: str, start: int = 0) -> list[Any]:
    """So many values."""
    found: list[Any] = []

    @seed(start)
    @settings(max_examples=count, database=None, backend=backend, phases=[Phase.generate])
    @given(value=strategy)
    def keep(value: Any) -> None:
        found.append(value)

    keep()
    return found


def are_even(pairs: list[tuple[int, int]]) -> bool:
    """Whether each of the 16 comes up as often as chance allows: 5 sigma."""
    counts, expected = Counter(pairs), len(pairs) / 16
    return all(abs(counts[i, j] - expected) < 5 * expected**0.5 for i in range(4) for j in range(4))


def test_choices_are_independent() -> None:
    """No pair is favoured; Hypothesis' own backend favours equal ones, and small numbers."""
    pairs = st.tuples(PAIRS, st.integers(0, 10**6)).map(lambda both: both[0])  # 16 would be all
    assert are_even(drawn(pairs, 4000, INDEPENDENT)[1:])  # after the simplest
    assert not are_even(drawn(pairs, 4000, "hypothesis")[1:])


DRAWN = """
import sys
from hypothesis import strategies as st
sys.path.insert(0, sys.argv[1])
from tests.meta.test_independent import drawn
if sys.argv[3:]:
    import numbers_to_be_found
print(drawn(st.tuples(st.integers(0, 10**6), st.binary(min_size=3, max_size=3)), 300, sys.argv[2]))
"""


@pytest.mark.parametrize("backend", [INDEPENDENT, "hypothesis"])
def test_what_has_been_imported_changes_nothing(backend: str, tmp_path: Path) -> None:
    """The seed alone says what is drawn; Hypothesis' own backend draws what it finds in code."""
    numbers = ", ".join(map(str, range(1000, 1100)))
    words = ", ".join(map(repr, (bytes([i, 2, i]) for i in range(50))))
    (tmp_path / "numbers_to_be_found.py").write_text(f"NUMBERS = [{numbers}, {words}]\n")
    found = [
        subprocess.run(
            [sys.executable, "-c", DRAWN, str(tmp_path), backend, *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ([], ["with it"])
    ]
    assert len(set(found)) == (1 if backend == INDEPENDENT else 2)
    values = st.integers(0, 10**6)
    assert drawn(values, 50, INDEPENDENT) != drawn(values, 50, INDEPENDENT, start=1)


@pytest.mark.parametrize(
    "strategy",
    [st.integers(), st.integers(min_value=3), st.floats(), st.text(), st.binary(), st.booleans()],
)
def test_whatever_else_is_drawn_too(strategy: st.SearchStrategy[Any]) -> None:
    """Without bounds, and of other kinds, as Hypothesis does; of everything there is a variety."""
    values = drawn(st.tuples(*3 * (strategy,)), 200, INDEPENDENT)
    assert len(set(map(repr, values))) > (7 if strategy is not st.booleans() else 0)


def test_what_fails_is_made_small() -> None:
    """As with Hypothesis' own."""
    least = hypothesis.find(
        st.tuples(st.integers(0, 999), st.binary(min_size=2, max_size=2)),
        lambda both: both[0] >= 700 and both[1][0] > 3,
        settings=settings(max_examples=2000, database=None, backend=INDEPENDENT),
    )
    assert least == (700, b"\x04\x00")


@pytest.mark.parametrize("profile", ["dev", "ci", "nightly"])
def test_every_profile_has_it(profile: str) -> None:
    """So that all tests draw so, whoever runs them."""
    assert settings.get_profile(profile).backend == INDEPENDENT


@pytest.mark.parametrize("aims", [False, True])
def test_what_aims_has_hypothesis_own(aims: bool) -> None:
    """As only that goes on from what came closest to the target."""
    aimed: list[int] = []

    def ask(problem: ConvProblem) -> None:
        assert (settings().backend == INDEPENDENT) != aims
        aimed.append(problem.x.size)
        target(float(problem.x.size))

    phases = [Phase.generate, *([Phase.target] if aims else [])]
    draw(ask, problems(find("numerical").oracle.domain, 1, "float32"), "0", 400, phases)
    later, earlier = aimed[200:], aimed[:200]
    assert (statistics.median(later) > 2 * statistics.median(earlier)) == aims


@pytest.mark.parametrize("how", ["a problem of each class", "what planted faults are asked"])
def test_who_draws_without_a_profile_has_it(how: str) -> None:
    """As benchmarks and certificates do."""
    backends: list[str] = []

    def ask(*_: object) -> bool:
        backends.append(settings().backend)
        if len(backends) > 400:
            raise Enough
        return True

    domain = Domain(Box(ranks=(1,), dtypes=("float32",), stride="one", dilation="one"))
    before = settings.get_current_profile_name()
    settings.load_profile("default")
    try:
        if how == "a problem of each class":
            ask_one(regions(domain)[0], ask)
        else:
            stream(domain, 0, 400, ask)
    except Enough:
        pass
    finally:
        settings.load_profile(before)
    assert set(backends) == {INDEPENDENT}


class Enough(BaseException):
    """Has been asked."""
