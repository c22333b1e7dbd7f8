"""`python -m tests.benchmarks.speed`: docs/speed.md and docs/speed.svg, ours against frameworks.

Every figure is a ratio of medians taken in one run. Each of `speed_rivals` lives in a process of
its own, with the same threads; a layer is made ready in all of them, then they are asked for a time
in turn, round after round, so that what else the machine does meets all of them. The stopwatch is
timeit's: pyperf and pytest-benchmark finish with one rival before they begin with the next.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from oracles.registry import entries
from reference import ConvParams, conv_backward
from reference.plans import PLANS, choose
from tests.benchmarks import harness
from tests.support.layers import Layer, real_layers
from tests.support.regressions import write_atomically

COMMAND = "python -m tests.benchmarks.speed"
ROOT = Path(__file__).resolve().parents[2]
THREADS = (1, 2)
FIRST = "float32, 1 thread"  # what is looked at most closely
COLORS = ("#1a7f37", "#0969da", "#8250df", "#bc4c00")
FAST = ("ours", "pytorch", "pytorch channels_last", "tensorflow")
ENOUGH = 2.0  # seconds of one layer
PAUSE = 0.05  # seconds; threads of OpenBLAS look for work for some 30 ms
LEAST = 10**6  # multiply-adds from which a layer is to take as long as they are many
TINY = Layer("tiny", (1, 7, 7, 3), (3, 3, 3, 4), ConvParams((2, 2)))
SAME = ConvParams(padding=((1, 1), (1, 1)))
GROWING = {  # 1e9, 3e8, ... 1e6 multiply-adds, 3x3; the allocator has then seen the largest first
    "64 to 64 channels, more cells": [
        Layer("", (1, cells, cells, 64), (3, 3, 64, 64), SAME)
        for cells in (165, 92, 52, 29, 16, 9, 5)
    ],
    "28 x 28 cells, more channels": [
        Layer("", (1, 28, 28, channels), (3, 3, channels, channels), SAME)
        for channels in (376, 211, 119, 67, 38, 21, 12)
    ],
}

Times = dict[str, float | str]  # of each rival: the median in seconds, or why there is none
Ask = Callable[[Mapping[str, Any]], Any]


@contextmanager
def rival(name: str, threads: int, python: str) -> Iterator[Ask]:
    """A process that answers requests."""
    variables = (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    )
    limits = dict.fromkeys(variables, str(threads))
    with subprocess.Popen(
        [python, "-W", "ignore", "-m", "tests.benchmarks.speed_rivals", name],
        cwd=ROOT,
        env={**os.environ, **limits, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, received = process.stdin, process.stdout

        def ask(request: Mapping[str, Any]) -> Any:
            sent.write(json.dumps(request) + "\n")
            sent.flush()
            line = received.readline()
            return json.loads(line) if line else f"died of {process.wait()}"

        yield ask
        sent.close()


def times(
    asks: Mapping[str, tuple[Ask, Mapping[str, Any]]],
    layer: Layer,
    rounds: int,
    pause: float = 0.0,
) -> Times:
    """The median of each: all are made ready with its options, then asked in turn.

    Each is asked after a pause, in seconds, in which the threads of the one before fall asleep.
    Two rounds do where they take long.
    """
    found: Times = {}
    for name, (ask, options) in asks.items():
        refused = ask({"layer": layer.record(), "options": options})
        if refused is not None:
            found[name] = str(refused)
    taken: dict[str, list[float]] = {name: [] for name in asks if name not in found}
    start = time.perf_counter()
    for number in range(rounds):
        if number > 1 and time.perf_counter() - start > ENOUGH:
            break
        for name, seconds in taken.items():
            time.sleep(pause)
            seconds.append(float(asks[name][0]({})))
    return found | {name: statistics.median(seconds) for name, seconds in taken.items()}


def against(
    names: Sequence[str],
    layers: Sequence[Layer],
    dtype: str,
    threads: int,
    rounds: int,
    pythons: Mapping[str, str] | None = None,
    *,
    forward: bool = False,
) -> list[Times]:
    """The times of `names` for each layer: of the gradients, or of y where it is `forward`."""
    with ExitStack() as stack:
        asks = {
            name: stack.enter_context(
                rival(name, threads, (pythons or {}).get(name, sys.executable))
            )
            for name in names
        }
        options = {"dtype": dtype} | ({"forward": True} if forward else {})
        each = {name: (ask, options) for name, ask in asks.items()}
        pause = PAUSE if threads > 1 else 0.0
        what = f"{'y' if forward else 'gradients'}, {dtype}, {threads_of(threads)}"
        return [times(each, layer, rounds, pause) for layer in harness.shown(layers, what)]


def threads_of(count: int) -> str:
    """In words."""
    return f"{count} thread{'s' * (count > 1)}"


def compare(
    layers: Sequence[Layer], rounds: int, between: Callable[[], object] = lambda: None
) -> dict[str, list[Times]]:
    """The times of all rivals for each layer: of gradients, by dtype and threads, and of y.

    `between` is called after each of these.
    """
    found = {}
    for threads in THREADS:
        for dtype, names in (("float32", FAST), ("float64", FAST[:2])):
            key = f"{dtype}, {threads_of(threads)}"
            found[key] = against(names, layers, dtype, threads, rounds)
            between()
    found[f"y, {FIRST}"] = against(FAST, layers, "float32", 1, rounds, forward=True)
    between()
    return found


def summaries(compared: Mapping[str, Sequence[Times]]) -> list[list[str]]:
    """A line for each rival: what was asked for, who it is, and the `summary` of ours / theirs."""
    return [
        [key, name, *summary(ratios(rows, name))]
        for key, rows in compared.items()
        for name in rows[0]
        if name != "ours"
    ]


def medians(found: Sequence[Times]) -> Times:
    """Of each rival, over the times of several processes and moments: some may be slow."""
    times: Times = {}
    for name, first in found[0].items():
        known = [seconds for of in found if isinstance(seconds := of[name], float)]
        times[name] = statistics.median(known) if known else first
    return times


def plans(layers: Sequence[Layer], rounds: int) -> list[dict[str, float]]:
    """The times of every plan that fits; products of depthwise layers are too slow."""
    found = []
    with rival("ours", 1, sys.executable) as ask:
        for layer in layers:
            fitting = [
                name
                for name, plan in PLANS.items()
                if plan.fits(layer.x, layer.w, layer.params)
                and not (name in ("taps", "groups") and layer.kind == "depthwise")
            ]
            taken: dict[str, list[float]] = {name: [] for name in fitting}
            for _ in range(rounds):
                for name in fitting:
                    ask({"layer": layer.record(), "options": {"dtype": "float32", "plan": name}})
                    taken[name].append(ask({}))
            found.append({name: statistics.median(seconds) for name, seconds in taken.items()})
    return found


def memory(layer: Layer) -> float:
    """The most bytes in use beside the results, as a share of x, w, y, dX and dW together."""
    x, w, dy = (np.zeros(shape, np.float32) for shape in (layer.x, layer.w, layer.dy))
    tracemalloc.start()
    try:
        conv_backward(x, w, dy, layer.params)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return (peak / 4 - math.prod(layer.x) - math.prod(layer.w)) / layer.elements


def ratio(of: Times, name: str) -> float | None:
    """Ours to another's; None where one has no answer."""
    one, other = of.get("ours"), of.get(name)
    return one / other if isinstance(one, float) and isinstance(other, float) else None


def ratios(found: Sequence[Times], name: str) -> list[float]:
    """Those that there are, sorted."""
    return sorted(known for of in found if (known := ratio(of, name)) is not None)


def summary(known: Sequence[float]) -> list[str]:
    """Geometric mean, least, most, and how many."""
    if not known:
        return ["-", "-", "-", "0"]
    mean = statistics.geometric_mean(known)
    return [*(f"{value:.2f}" for value in (mean, min(known), max(known))), str(len(known))]


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown, numbers to the right."""
    rules = ["---" if number == 0 else "---:" for number in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rules, *lines))


def figure(value: object, scale: float = 1.0) -> str:
    """A cell: three digits of a number, or a dash."""
    return f"{value * scale:.3g}" if isinstance(value, float) else "-"


def version(name: str) -> str:
    """Of a distribution."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return f"{name} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"no {name}"


def report(found: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """docs/speed.md."""
    chosen = [choose(layer.x, layer.w, layer.params) for layer in layers]
    slower = [relative(of)[name] for of, name in zip(found["plans"], chosen)]
    tiny = ", ".join(f"{name} {figure(of, 1e6)}" for name, of in found["tiny"].items())
    versions = ", ".join(map(version, ("numpy", "torch", "tensorflow")))
    parts = [
        _LEGEND,
        f"Made by `{COMMAND}` with {versions} on {os.cpu_count()} cores; medians of "
        f"{found['rounds']} rounds.",
        "## Ours / theirs, over all layers",
        table(
            ["", "theirs", "geometric mean", "least", "most", "layers"],
            summaries(found["main"]),
        ),
        "![Ours / theirs by layer, and time per multiply-add](speed.svg)",
        "## A tiny layer",
        f"1 of 7x7, 3 to 4 channels, 3x3, stride 2, one thread, in microseconds: {tiny}.",
        "## Time per multiply-add",
        "Nanoseconds of the backward for each multiply-add of the forward, 3x3, float32, one "
        "thread: medians over several moments of the run, each in new processes. From a million "
        "multiply-adds on, ours vary by a factor of "
        f"{flatness(found['growing']):.2f}.",
        table(
            ["layer", "multiply-adds", *FAST],
            [
                [
                    what,
                    f"{layer.products:.2g}",
                    *(figure(of[name], 1e9 / layer.products) for name in FAST),
                ]
                for what, rows in found["growing"].items()
                for layer, of in zip(GROWING[what], rows)
            ],
        ),
        _BOUNDS,
        "## The harness",
        f"What one random {harness.RANK}-D {harness.DTYPE} problem costs in a run, mean, in "
        "milliseconds: the parts, each by itself; all of them where each problem is judged before "
        "the next is drawn; and the whole of a run, which draws the next while the oracle does its "
        "part.",
        table(harness.HEADS, [harness.cells(*of) for of in found["harness"].items()]),
        "![The parts of a problem's time, by oracle](harness.svg)",
        "## Memory",
        "Beside the results there are in use at most "
        f"{max(found['memory']):.2f} times the bytes of x, w, y, dX and dW together.",
        "## Plans",
        f"The plan that is chosen takes {statistics.geometric_mean(slower):.3f} times as long as "
        f"the fastest, geometric mean, and {max(slower):.2f} times at most. On how many layers "
        "each is chosen, and what it takes, relative to the fastest, on all that it fits:",
        table(
            ["plan", "chosen", "geometric mean", "least", "most", "layers"],
            [
                [
                    name,
                    str(chosen.count(name)),
                    *summary([relative(of)[name] for of in found["plans"] if name in of]),
                ]
                for name in PLANS
            ],
        ),
        "## Layer by layer",
        "Millions of multiply-adds of the forward; ours in milliseconds, float32, one thread; ours "
        "/ theirs, float32 and one thread if not stated; chosen plan / fastest; memory as above.",
        layer_by_layer(found, layers, chosen),
    ]
    return "\n\n".join(parts) + "\n"


def layer_by_layer(found: Mapping[str, Any], layers: Sequence[Layer], chosen: Sequence[str]) -> str:
    """A line for each."""
    columns = [(key, name) for key, rows in found["main"].items() for name in rows[0]]
    columns = [(key, name) for key, name in columns if name != "ours"]
    heads = [name if key == FIRST else f"{name}, {key}" for key, name in columns]
    lines = [
        [
            str(layer),
            f"{layer.products / 1e6:,.3g}",
            chosen[number],
            figure(found["main"][FIRST][number]["ours"], 1e3),
            *(figure(ratio(found["main"][key][number], name)) for key, name in columns),
            f"{relative(found['plans'][number])[chosen[number]]:.2f}",
            f"{found['memory'][number]:.2f}",
        ]
        for number, layer in enumerate(layers)
    ]
    return table(["layer", "products", "plan", "ms", *heads, "fastest plan", "memory"], lines)


def relative(of: Mapping[str, float]) -> dict[str, float]:
    """The times of plans, to the shortest."""
    return {name: seconds / min(of.values()) for name, seconds in of.items()}


def flatness(growing: Mapping[str, Sequence[Times]]) -> float:
    """The longest time per multiply-add of ours to the shortest, of LEAST multiply-adds or more."""
    each = [
        float(of["ours"]) / layer.products
        for what, rows in growing.items()
        for layer, of in zip(GROWING[what], rows)
        if layer.products >= LEAST
    ]
    return max(each) / min(each)


Curves = Mapping[str, Sequence[tuple[float, float]]]  # x from 0 to 1, y above 0


def svg(found: Mapping[str, Any]) -> str:
    """Two panels: the ratios, sorted, and the time per multiply-add."""
    sorted_ratios = {name: ratios(found["main"][FIRST], name) for name in FAST[1:]}
    by_layer = {
        f"ours / {name}": [(place / len(known), value) for place, value in enumerate(known)]
        for name, known in sorted_ratios.items()
    }
    growing = {
        f"{name}: {what}": [
            (math.log10(layer.products) / 3 - 2, seconds / layer.products * 1e9)
            for layer, of in zip(GROWING[what], rows)
            if isinstance(seconds := of[name], float)
        ]
        for what, rows in found["growing"].items()
        for name in FAST[:2]
    }
    panels = [
        panel(60, f"ours / theirs, layers sorted, {FIRST}", by_layer),
        panel(560, "ns per multiply-add, from 1e6 to 1e9 of them", growing),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1020 390" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n"
    )


def panel(left: float, title: str, curves: Curves) -> str:
    """Curves over a logarithmic y, their names below."""
    width, height, top = 420, 260, 30
    values = [y for points in curves.values() for _, y in points] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def down(y: float) -> float:
        return top + height * (high - math.log10(y)) / (high - low)

    lines = [f'<text x="{left}" y="{top - 10}" font-weight="bold">{escape(title)}</text>']
    for power in range(low, high + 1):
        y = down(10.0**power)
        lines += [
            f'<path d="M{left} {y:.1f} h{width}" stroke="#d0d7de"/>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>',
        ]
    for place, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{left + x * width:.1f},{down(y):.1f}" for x, y in points)
        y = top + height + 18 + 16 * place
        lines += [
            f'<polyline points="{path}" fill="none" stroke="{COLORS[place]}" stroke-width="2"/>',
            f'<text x="{left}" y="{y}" fill="{COLORS[place]}">{escape(name)}</text>',
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the times, write the table and the plot."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="ours against frameworks")
    parser.add_argument("--rounds", type=int, default=3, help="times of each (default: 3)")
    parser.add_argument("--every", type=int, default=1, help="every n-th layer only (default: 1)")
    parser.add_argument("--chainer", metavar="PYTHON", help="an interpreter that has Chainer 7.8.1")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="a directory")
    given = parser.parse_args(arguments)
    layers, rounds = real_layers()[:: given.every], given.rounds
    small = {TINY.network: [TINY], **GROWING}
    taken: dict[str, list[list[Times]]] = {what: [] for what in small}

    def of_this_moment() -> None:
        for what, some in small.items():
            taken[what].append(against(FAST, some, "float32", 1, rounds))

    # the moment counts where layers are so small: they have their turn after each comparison
    found: dict[str, Any] = {"rounds": rounds, "main": compare(layers, rounds, of_this_moment)}
    growing = {what: [medians(of) for of in zip(*moments)] for what, moments in taken.items()}
    [found["tiny"]] = growing.pop(TINY.network)
    found["growing"] = growing
    found["plans"] = plans(layers, 1)
    found["memory"] = [memory(layer) for layer in layers]
    found["harness"] = harness.costs_of([e.name for e in entries() if e.installed], max(3, rounds))
    if given.chainer:
        names, pythons = ("ours", "chainer"), {"chainer": given.chainer}
        key = f"{FIRST}, 1 round"
        found["main"][key] = against(names, layers, "float32", 1, 1, pythons)
    text = report(found, layers)
    write_atomically(given.to / "speed.md", text)
    write_atomically(given.to / "speed.svg", svg(found))
    write_atomically(given.to / "harness.svg", harness.svg(found["harness"]))
    print(text)


_LEGEND = """\
# How fast the reference is

What `conv_backward` takes for dX, dW and db, and in the rows of y what `conv_forward` takes,
against PyTorch's `aten.convolution_backward` and `aten.convolution`, of tensors that are contiguous
and that are channels_last, and TensorFlow's raw operations (`Conv2DBackpropInput`,
`Conv2DBackpropFilter`, `BiasAddGrad`, `Conv2D` and their kin), on layers of published networks
(`tests/support/real_layers.jsonl`). Below 1, ours is faster. All have the same number of threads
(`OPENBLAS_NUM_THREADS`, `OMP_NUM_THREADS`, `MKL_NUM_THREADS`, `TF_NUM_INTRAOP_THREADS` and
`TF_NUM_INTEROP_THREADS`); each lives in a process of its own and is asked in turn, layer by layer,
round by round, twice for nothing and then, five times for 20 ms at least, for the time, the least
of which counts. A dash: it has no such kernel on a CPU."""

_BOUNDS = """\
## What bounds it

Large dense layers take what two products of BLAS take. Narrow ones take longer a multiply-add: a
register of AVX-512 holds 16 numbers of float32, so that 12 channels leave a quarter of it idle, and
columns of few channels are copied in short pieces. Small ones take some 40 microseconds of calls of
Python. Depthwise layers have no product: `np.einsum` reads and writes every sum once a tap, where
PyTorch's kernels for channels_last keep it in a register. Narrow groups are multiplied 16 channels
at a time, zeros between them included, and copied in and out in short pieces. Points of few
channels are bound by memory: x is read and dX written once.

BLAS has its threads for large products only, and small ones are the fastest where channels are few.
Depthwise layers and columns of few channels are therefore computed in parts, side by side, in as
many threads of Python as BLAS has, where that takes some milliseconds: after a pause Linux lets a
second thread wait for the core of the first, for longer than small layers take, and threads wait
for each other's Python. Copies beside large products are made by one."""


if __name__ == "__main__":
    main()
