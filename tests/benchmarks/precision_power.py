"""`python -m tests.benchmarks.precision_power`: which judge sees which small loss of precision.

Each oracle of `tests.support.lossy` is judged by our checks and by the gradient checks of PyTorch,
JAX and TensorFlow with their defaults, on the same layer small, medium and large. Everything in the
table comes from running it. `--write FILE` also writes it as Markdown.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import shlex
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from oracles.compare import Disagreement, judge
from oracles.process import ENVIRONMENT
from oracles.registry import connect, find
from reference import ConvProblem, conv_backward, conv_forward
from reference.problem import Array
from tests.benchmarks import peers
from tests.support import lossy, sizes
from tests.support.reporting import Tally
from tests.support.verification import Verification

COMMAND = "python -m tests.benchmarks.precision_power"
LIMIT = 20.0  # seconds of evaluations, with a right backward, beyond which no judge is run
FEASIBLE = 3600.0  # seconds that somebody might wait for one
NAMES = (*lossy.RIGHT, *lossy.FAULTS)
OURS = (*sizes.FILLS, "probe")
SEED = 0
TF_TOLERANCE = 1e-6  # rtol and atol of assertAllClose, as in the docstring of compute_gradient
TF_MAX_ERROR = 0.003  # of TensorFlow's own conv_ops_test.py


@dataclass(frozen=True)
class Layer:
    """A layer with normally distributed data, and a backward of `tests.support.lossy` for it.

    Everything is in `dtype`, but the backward computes in its own.
    """

    name: str
    size: str
    dtype: str

    @property
    def oracle(self) -> lossy.Lossy:
        """Whose backward it is."""
        oracle: lossy.Lossy = getattr(lossy, self.name)
        return oracle

    @property
    def arrays(self) -> list[Array]:
        """The arrays x, w, b and dy."""
        random = np.random.default_rng(SEED)
        seeds = sizes.seeds(self.size)
        return [
            random.standard_normal(seeds[name].shape).astype(self.oracle.dtype).astype(self.dtype)
            for name in ("x", "w", "b", "dy")
        ]

    def forward(self, x: Array, w: Array, b: Array) -> Array:
        """The right y, in the dtype of x."""
        return conv_forward(*map(np.asarray, (x, w, b)), sizes.PARAMS)

    def backward(self, x: Array, w: Array, b: Array, dy: Array) -> tuple[Array, Array, Array]:
        """dX, dW and db in the dtype of x, as the oracle has them."""
        x, w, b, dy = (np.asarray(array).astype(self.oracle.dtype) for array in (x, w, b, dy))
        grads = self.oracle.grads(ConvProblem(x, w, b, dy, sizes.PARAMS))
        assert grads.db is not None
        dx, dw, db = (a.astype(self.dtype) for a in (grads.dx, grads.dw, grads.db))
        return dx, dw, db


class Evaluations(NamedTuple):
    """How often a judge computes y, and gradients."""

    forward: int
    backward: int


def _every_element(inputs: int, outputs: int) -> Evaluations:
    """Two of each: gradcheck asks for each row of the Jacobian twice, to compare."""
    return Evaluations(2 * inputs, 2 * outputs)


def _every_element_of_three(inputs: int, outputs: int) -> Evaluations:
    """One function, evaluated anew, for each row of the Jacobian with respect to x, w and b."""
    return Evaluations(2 * inputs + 3 * outputs, 3 * outputs)


def _few(inputs: int, outputs: int) -> Evaluations:
    del inputs, outputs
    return Evaluations(8, 4)


@dataclass(frozen=True)
class Peer:
    """A gradient check of a framework: `run` says for each of its `columns` whether it is content.

    It is run in the backward's own dtype, or in `dtype`.
    """

    columns: tuple[str, ...]
    distributions: tuple[str, ...]
    run: Callable[[Layer], Sequence[bool]]
    evaluations: Callable[[int, int], Evaluations] = _few
    dtype: str | None = None

    @property
    def version(self) -> str | None:
        """What is installed of it; None for nothing."""
        return peers.version(self.distributions)

    def layer(self, name: str, size: str) -> Layer:
        """What is given to it."""
        return Layer(name, size, self.dtype or getattr(lossy, name).dtype)

    def cells(self, name: str, size: str) -> list[bool | str]:
        """Whether it is content with the oracle called `name`, or why it has not been asked."""
        layer = self.layer(name, size)
        if words := infeasible(self, layer):
            return [words] * len(self.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradcheck, of float32
            return [*self.run(layer)]


def infeasible(peer: Peer, layer: Layer) -> str:
    """How long `peer` would take with a right backward, if that is too long; else ""."""
    *inputs, dy = layer.arrays
    count = peer.evaluations(sum(array.size for array in inputs), dy.size)
    forward, backward = seconds_of_one(control(layer.name), layer.size, layer.dtype)
    seconds = count.forward * forward + count.backward * backward
    if seconds <= LIMIT:
        return ""
    kind = "not run" if seconds < FEASIBLE else "not feasible"
    return f"{kind}: {sum(count):,} evaluations, about {duration(seconds)}"


def control(name: str) -> str:
    """The plain oracle of the same dtype that is right."""
    return "right_float64" if getattr(lossy, name).dtype == "float64" else "right"


@functools.cache
def seconds_of_one(name: str, size: str, dtype: str) -> tuple[float, float]:
    """What a forward and a backward take, the better of two."""
    layer = Layer(name, size, dtype)
    *inputs, dy = layer.arrays
    forward, backward = [], []
    for _ in range(2):
        start = time.perf_counter()
        layer.forward(*inputs)
        middle = time.perf_counter()
        layer.backward(*inputs, dy)
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    return min(forward), min(backward)


def duration(seconds: float) -> str:
    """In minutes, hours or days, to two digits."""
    for unit, length in (("days", 86_400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds / 60)} min"


def _two_digits(number: float) -> str:
    digits = 1 - math.floor(math.log10(number))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def torch_gradcheck(layer: Layer, *, fast: bool) -> list[bool]:
    """torch.autograd.gradcheck."""
    return [peers.gradcheck(layer.forward, layer.backward, layer.arrays[:3], fast=fast, seed=SEED)]


def torch_assert_close(layer: Layer) -> list[bool]:
    """torch.testing.assert_close of the gradients with the right ones, rounded to their dtype."""
    x, w, b, dy = layer.arrays
    higher = np.longdouble if layer.dtype == "float64" else np.float64
    right = conv_backward(*(array.astype(higher) for array in (x, w, dy)), sizes.PARAMS)
    assert right.db is not None
    rounded = [array.astype(layer.dtype) for array in (right.dx, right.dw, right.db)]
    return [peers.assert_close(layer.backward(x, w, b, dy), rounded)]


def jax_check_grads(layer: Layer) -> list[bool]:
    """jax.test_util.check_grads."""
    *inputs, dy = layer.arrays
    return [peers.check_grads(layer.forward, layer.backward, inputs, dy)]


def tensorflow_compute_gradient(layer: Layer) -> list[bool]:
    """tf.test.compute_gradient, held against two tolerances."""
    *inputs, dy = layer.arrays
    pairs = peers.compute_gradient(layer.forward, layer.backward, inputs, dy)
    # the tolerance is the peer's own, as its documentation has it: the peer is what is measured
    close = all(np.allclose(*pair, rtol=TF_TOLERANCE, atol=TF_TOLERANCE) for pair in pairs)
    return [close, max(float(np.abs(one - other).max()) for one, other in pairs) < TF_MAX_ERROR]


PEERS = (
    Peer(
        ("gradcheck slow",),
        ("torch",),
        functools.partial(torch_gradcheck, fast=False),
        _every_element,
    ),
    Peer(("gradcheck fast",), ("torch",), functools.partial(torch_gradcheck, fast=True)),
    Peer(
        ("gradcheck slow, float64",),
        ("torch",),
        functools.partial(torch_gradcheck, fast=False),
        _every_element,
        dtype="float64",
    ),
    Peer(
        ("gradcheck fast, float64",),
        ("torch",),
        functools.partial(torch_gradcheck, fast=True),
        dtype="float64",
    ),
    Peer(("assert_close",), ("torch",), torch_assert_close),
    Peer(("check_grads",), ("jax",), jax_check_grads),
    Peer(
        ("compute_gradient, 1e-6", "compute_gradient, 0.003"),
        ("tensorflow-cpu", "tensorflow"),
        tensorflow_compute_gradient,
        _every_element_of_three,
    ),
)


def ours(name: str, size: str) -> list[bool | str]:
    """Whether each of our checks is content; the probe has sizes of its own."""
    oracle = connect(find(f"tests.support.lossy:{name}"), in_process=True)
    key = getattr(lossy, name).dtype, oracle.domain.exact

    def content(problem: ConvProblem) -> bool:
        verdict = judge(oracle, problem)
        assert verdict.kind in ("agrees", "differs")
        return verdict.kind == "agrees"

    fills = (all(map(content, problems(fill, size, *key))) for fill in sizes.FILLS)
    return [*fills, probed(name)]


@functools.lru_cache(maxsize=9)
def problems(fill: str, size: str, dtype: str, exact: bool) -> list[ConvProblem]:
    """Those of `sizes.problems`, which take their time."""
    return [*sizes.problems(fill, size, dtype, exact=exact)]


@functools.cache
def probed(name: str) -> bool:
    """Whether the probe is content."""
    entry = find(f"tests.support.lossy:{name}")
    verification = Verification(
        [entry], Tally(), in_process=True, time_limit=30, regressions=Path()
    )
    oracle = verification.connection(entry.name)
    try:
        for rank, dtype in oracle.domain.cells():
            verification.probe(oracle, rank, dtype)
    except Disagreement:
        return False
    return True


Cells = dict[tuple[str, str], list[bool | str]]
"""What there is to say of an oracle and a size: of each column whether it is content, or words."""


def column_cells(
    ask: Callable[[str, str], list[bool | str]], names: Sequence[str], chosen: Sequence[str]
) -> Cells:
    """Ask for every oracle and size, in a process of its own, with one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        cells: Cells = {}
        for size in chosen:
            for name in names:
                start = time.perf_counter()
                cells[name, size] = pool.submit(ask, name, size).result()
                seconds = time.perf_counter() - start
                print(f"{size} {name} {cells[name, size]} {seconds:.1f} s", flush=True)
        return cells


@dataclass(frozen=True)
class Table:
    """What was found, of all columns."""

    columns: tuple[str, ...]
    cells: Cells
    sizes: tuple[str, ...]
    names: tuple[str, ...]

    def cell(self, name: str, size: str, column: str) -> str:
        """What the table says."""
        content, of_control = (
            self.cells[who, size][self.columns.index(column)] for who in (name, control(name))
        )
        if isinstance(content, str):
            return content
        if name in lossy.RIGHT:
            return "passes" if content else "**false alarm**"
        if content:
            return "missed"
        return "caught" if of_control else "alarms anyway"

    def lines(self, size: str) -> list[list[str]]:
        """One for each oracle."""
        return [
            [f"`{name}`", *(self.cell(name, size, column) for column in self.columns)]
            for name in self.names
        ]

    def summary(self) -> list[list[str]]:
        """One line for each judge: what it catches, and raises in vain, of each size."""
        groups = {"**ours, together**": self.columns[: len(OURS)]}
        groups |= {column: (column,) for column in self.columns}
        return [
            [head, *(self._count(columns, size) for size in self.sizes)]
            for head, columns in groups.items()
        ]

    def _count(self, columns: Sequence[str], size: str) -> str:
        of_faults, of_right = (
            [
                [self.cell(name, size, column) for column in columns]
                for name in self.names
                if (name in lossy.RIGHT) == right
            ]
            for right in (False, True)
        )
        caught = sum("caught" in cells for cells in of_faults)
        alarms = sum("**false alarm**" in cells for cells in of_right)
        if all(cell.startswith("not") for cells in of_faults for cell in cells):
            return of_faults[0][0].partition(":")[0]
        return f"{caught} of {len(of_faults)}; {alarms} of {len(of_right)}"

    def markdown(self, command: str, versions: Sequence[str]) -> str:
        """The tables with what one needs to read them, and to make them again by `command`."""
        parts = [
            _LEGEND,
            f"Made by `{command}` with {', '.join(versions)}.",
            "## Caught, and false alarms",
            _SUMMARY.format(faults=len(lossy.FAULTS), right=len(lossy.RIGHT)),
            _markdown(["judge", *self.sizes], self.summary()),
        ]
        for size in self.sizes:
            batch, cells, channels, filters = sizes.SIZES[size]
            parts += [
                f"## {size}: x ({batch}, {cells}, {cells}, {channels}), "
                f"w (3, 3, {channels}, {filters})",
                _markdown(["oracle", *self.columns], self.lines(size)),
            ]
        parts += ["## The oracles", "\n".join(f"- `{name}`: {words(name)}" for name in self.names)]
        return "\n\n".join(parts) + "\n"


def words(name: str) -> str:
    """What is wrong with an oracle."""
    text = " ".join((getattr(lossy, name).compute.__doc__ or "").split())
    if name.endswith("_as_exact"):
        text = f"The same as `{name.removesuffix('_as_exact')}`, but claims to be exact."
    return text


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every judge on every oracle, print what each says, and write it if that is wanted."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="who sees small losses of precision")
    parser.add_argument("--write", metavar="FILE", help="write the tables as Markdown, too")
    parser.add_argument(
        "--size", action="append", choices=sizes.SIZES, help="only this size (repeatable)"
    )
    given = parser.parse_args(arguments)
    chosen = tuple(given.size or sizes.SIZES)
    threads = {key: value for key, value in ENVIRONMENT.items() if "THREADS" in key}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", **threads}
    columns, cells = list(OURS), column_cells(ours, NAMES, chosen)
    for peer in PEERS:
        columns += peer.columns
        found: Cells = {key: ["not installed"] * len(peer.columns) for key in cells}
        if peer.version is not None:
            print(", ".join(peer.columns))
            found = column_cells(peer.cells, NAMES, chosen)
        for key in cells:
            cells[key] += found[key]
    table = Table(tuple(columns), cells, chosen, NAMES)
    versions = dict.fromkeys(peer.version for peer in PEERS if peer.version)
    options = [f"--size={size}" for size in given.size or ()]
    options += [] if given.write is None else ["--write", given.write]
    text = table.markdown(
        shlex.join([*COMMAND.split(), *options]), [f"NumPy {np.__version__}", *versions]
    )
    print(text)
    if given.write is not None:
        Path(given.write).write_text(text)


_LEGEND = """\
# Small losses of precision, and who sees them

Each oracle below is the reference's backward but for a small loss of precision, or for one number.
The forward is right. Every cell comes from running the judge, once for each size of one layer, a
kernel of 3 x 3 with padding 1 and a bias.

Ours, the first four columns: exact verdicts on small integers and on wide ones, verdicts on reals
within the bound of each element, and the probe, which has problems of its own, the same for every
size. They get no y, only gradients. The tests assert what they say, on random problems and at the
sizes small and medium: `tests/meta/test_lossy.py`.

Others, with their defaults, on normally distributed data in the oracle's dtype: `gradcheck` of
PyTorch, slow and fast (its defaults are made for float64, as its documentation says; the columns
"float64" give it inputs and a forward in float64, so that only the backward is in float32),
`torch.testing.assert_close` between the gradients and the right ones, rounded once, `check_grads`
of JAX in reverse mode, and `compute_gradient` of TensorFlow, which has no tolerance of its own: in
its documentation's example it is assertAllClose's, 1e-6, and in TensorFlow's tests of convolutions
an error of 0.003.

"caught" is an alarm that the same judge does not raise for the right backward of the same size and
dtype; "alarms anyway" is one that it does. Not run is what has more than 20 seconds of evaluations
alone, extrapolated from a right forward and backward of that size, and takes several times as long:
"not run" is what somebody might wait for, and says nothing of what it would have found; "not
feasible" would take more than an hour.

The tries are not equal: of each size ours get one problem of small integers, nine of wide ones and
five of reals, four for transforms, and the others one draw of data, with seed 0, at which a fault
in one element may be seen or not. Others are never told whether an oracle claims to be exact: that
they pass honest transforms, and so those that make a false claim, is right of them. The faults were
known when the wide integers were made as they are: two bfloat16 halves had passed at the large size
before."""

_SUMMARY = """\
Of {faults} faults caught; of {right} right backwards called wrong."""


if __name__ == "__main__":
    main()
