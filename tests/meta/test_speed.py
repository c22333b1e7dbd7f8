"""The benchmark of speed: who is asked, what is counted, and what is written."""

from __future__ import annotations

import json
import sys
import timeit
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from oracles.registry import find
from reference import ConvParams
from tests.benchmarks import __main__ as bench
from tests.benchmarks import harness, speed, speed_rivals
from tests.benchmarks.harness import Cost
from tests.benchmarks.speed import TINY, flatness, medians, ratio, rival, summary, times
from tests.support.layers import Layer, layer_of, real_layers


def test_the_layers() -> None:
    """Of all ranks and kinds, and each is what its own record says."""
    layers = real_layers()
    assert len(layers) == 72
    assert {layer.params.rank for layer in layers} == {1, 2, 3}
    assert {layer.kind for layer in layers} == {"dense", "pointwise", "grouped", "depthwise"}
    for layer in layers:
        assert layer_of(json.loads(json.dumps(layer.record()))) == layer
        assert 1e3 < layer.products < 1e9


def test_what_a_layer_counts() -> None:
    """Multiply-adds and elements, by hand."""
    layer = Layer("", (2, 5, 4), (3, 2, 6), ConvParams((1,), ((0, 0),), (1,), 2))
    assert layer.dy == (2, 3, 6)
    assert layer.products == 2 * 3 * 6 * 3 * 2
    assert layer.elements == 2 * 40 + 2 * 36 + 36


def test_a_rival_answers() -> None:
    """Ours, in another process, gets ready and says how long it takes."""
    with rival("ours", 1, sys.executable) as ask:
        found = times({"ours": (ask, {"dtype": "float64"})}, TINY, 3)
    assert isinstance(found["ours"], float)
    assert 0 < found["ours"] < 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ours", {"plan": "no"}, "ValueError: plan='no'"),
        ("nobody", {}, "KeyError: 'nobody'"),
    ],
)
def test_a_rival_that_refuses(name: str, options: dict[str, str], words: str) -> None:
    """What it says is kept, and it is not asked for a time."""
    with rival(name, 1, sys.executable) as ask:
        found = times({name: (ask, {"dtype": "float32", **options})}, TINY, 1)
    assert str(found[name]).startswith(words)


def test_the_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least mean of as many calls as take the time wanted, after two that do not count."""
    first, counted = [0.1, 0.5], [[9.0, 0.5, 0.5], [0.5, 0.25, 0.75], [0.25, 0.75, 2.0]]
    spent = iter([*first, *(seconds for part in counted for seconds in part)])
    now = [0.0]

    def call() -> None:
        now[0] += next(spent)

    monkeypatch.setattr(timeit, "Timer", partial(timeit.Timer, timer=lambda: now[0]))
    monkeypatch.setattr(speed_rivals, "LEAST", 1.2)
    monkeypatch.setattr(speed_rivals, "_REPEATS", 3)
    assert speed_rivals.seconds_of(call) == pytest.approx(0.5)
    assert next(spent, None) is None


def test_ratios() -> None:
    """Of ours to theirs, where there are both; the mean is geometric."""
    assert ratio({"ours": 1.0, "pytorch": 4.0}, "pytorch") == 0.25
    assert ratio({"ours": 1.0, "pytorch": "refused"}, "pytorch") is None
    assert summary([0.5, 2.0, 1.0]) == ["1.00", "0.50", "2.00", "3"]
    assert summary([]) == ["-", "-", "-", "0"]


def test_make_bench_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each rival and what it was asked for; a rival that is not there has no figure."""
    monkeypatch.setattr(speed, "FAST", ("ours", "nobody"))
    monkeypatch.setattr(speed, "THREADS", (1,))
    monkeypatch.setattr(bench, "real_layers", lambda: (TINY,))
    bench.show_ratios()
    lines = [line.split("nobody") for line in capsys.readouterr().out.splitlines()]
    found = [(line[0].strip(), line[1].split()) for line in lines if len(line) > 1]
    whats = ("float32, 1 thread", "float64, 1 thread", "y, float32, 1 thread")
    assert found == [(what, ["-", "-", "-", "0"]) for what in whats]


def test_summaries() -> None:
    """Of each rival, of what both answer."""
    found = {"y": [{"ours": 1.0, "x": 4.0, "z": "no"}, {"ours": 1.0, "x": 1.0, "z": "no"}]}
    want = [["y", "x", "0.50", "0.25", "1.00", "2"], ["y", "z", "-", "-", "-", "0"]]
    assert speed.summaries(found) == want


def test_medians() -> None:
    """Over several processes, of each rival; what one refuses is kept."""
    found = [{"ours": 1.0, "x": "no"}, {"ours": 9.0, "x": "no"}, {"ours": 2.0, "x": "no"}]
    assert medians(found) == {"ours": 2.0, "x": "no"}


def test_flatness() -> None:
    """The largest time per multiply-add to the least, of layers that are not too small."""
    [(what, layers), *_] = speed.GROWING.items()
    even = [{"ours": layer.products * 1e-9} for layer in layers]
    assert flatness({what: even}) == pytest.approx(1)
    even[2] = {"ours": layers[2].products * 5e-9}
    assert flatness({what: even}) == pytest.approx(5)
    [place] = (place for place, layer in enumerate(layers) if layer.products < 10**6)
    even[place] = {"ours": layers[place].products * 9e-9}
    assert flatness({what: even}) == pytest.approx(5)


def test_what_is_small_has_a_turn_after_each_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its figures are of several moments."""
    asked: list[object] = []

    def against(
        names: object, layers: object, dtype: str, *_: int, forward: bool = False
    ) -> object:
        asked.append((dtype, forward))
        return []

    monkeypatch.setattr(speed, "against", against)
    found = speed.compare([], 1, lambda: asked.append("small"))
    assert asked[::2] == [("float32", False), ("float64", False)] * 2 + [("float32", True)]
    assert asked[1::2] == ["small"] * len(found)


def test_a_problem_that_costs_nothing() -> None:
    """Of an oracle that cannot be timed there is no figure, but what its process said."""
    with pytest.raises(RuntimeError, match=r"(?s)harness nobody 1000.*nobody"):
        harness.costs_of(["nobody"], 1)


def test_the_command_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has a line for each layer and each rival, and the plot can be read."""
    few = tuple(layer for layer in real_layers() if layer.products < 1e5)
    monkeypatch.setattr(speed, "real_layers", lambda: few)
    monkeypatch.setattr(speed, "GROWING", {"small": [TINY]})
    monkeypatch.setattr(speed, "LEAST", 0)
    monkeypatch.setattr(speed, "FAST", ("ours",))
    monkeypatch.setattr(speed, "THREADS", (1,))
    monkeypatch.setattr(speed, "entries", lambda: [find("numerical")])
    monkeypatch.setattr(harness, "COUNT", 20)
    speed.main(["--rounds=1", f"--to={tmp_path}"])
    text = (tmp_path / "speed.md").read_text()
    assert text in capsys.readouterr().out
    assert all(f"| {layer} |" in text for layer in few)
    assert "| numerical |" in text
    for name in ("speed.svg", "harness.svg"):
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")


def test_what_a_problem_costs() -> None:
    """Of each part there is a time, in the table and as a bar."""
    cost = Cost((0.001, 0.002, 0.003, 0.004, 0.005, 0.006), 0.02, 0.006)
    line = ["x", "1.00", "2.00", "3.00", "4.00", "5.00", "6.00", "20.00", "6.00", "2.00", "167"]
    assert harness.cells("x", cost) == line
    assert len(line) == len(harness.HEADS)
    half = Cost(tuple(part / 2 for part in cost.parts), 0.01, 0.003)
    assert harness.median([cost, half, cost]) == cost
    bars = ElementTree.fromstring(harness.svg({"x": cost})).iter("{http://www.w3.org/2000/svg}rect")
    assert sum(float(bar.get("width", "0").rstrip("%")) > 12 for bar in bars) == 8
