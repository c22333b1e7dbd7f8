"""`python -m tests.benchmarks.power_peers`: which mutant the gradient checks of others catch.

Each mutant of `tests.support.mutants` is judged by the checks of PyTorch, JAX, TensorFlow and ONNX,
each on the cases of its own tests, and by a list of cases as most projects write it. Everything is
run. `--write FILE` keeps what was found, as JSON, for `tests.benchmarks.power_report`.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from oracles.protocol import DTYPES, Box, Domain, Oracle
from oracles.worker import ENVIRONMENT
from reference import ConvGrads, ConvProblem, conv_backward, conv_forward
from reference.problem import Array
from tests.benchmarks import peer_cases, peers
from tests.benchmarks.peer_cases import Case
from tests.support import lossy, mutants

COMMAND = "python -m tests.benchmarks.power_peers"
LIMIT = 20.0  # seconds that a judge may take for one mutant
GRACE = 40.0  # seconds after that until it is said to hang
RIGHT = ("right", "right_rounded_once")
MUTANTS: Mapping[str, Oracle] = getattr(
    mutants,
    "MUTANTS",
    {n: v for n, v in vars(mutants).items() if isinstance(v, mutants.Mutant)}
    | {n: getattr(lossy, n) for n in lossy.FAULTS},
)
_ANY = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES))


@dataclass(frozen=True)
class RoundedOnce:
    """An oracle that is right: it sums in longdouble, where float64 is asked, and in float64."""

    distribution = None
    domain = _ANY

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The gradients, rounded once."""
        higher = np.longdouble if problem.dtype == "float64" else np.float64
        x, w, dy = (array.astype(higher) for array in (problem.x, problem.w, problem.dy))
        grads = conv_backward(x, w, dy, problem.params)
        dx, dw, db = (np.asarray(a, problem.dtype) for a in (grads.dx, grads.dw, grads.db))
        return ConvGrads(dx, dw, db if problem.b is not None else None)


@dataclass(frozen=True)
class Judge:
    """A check on its cases: `content` says whether it is, of an oracle and a case."""

    name: str
    words: str
    distributions: tuple[str, ...]
    cases: Callable[[], Iterable[Case]]
    content: Callable[[Oracle, Case], bool]


def functions(
    oracle: Oracle, case: Case
) -> tuple[peers.Forward, peers.Backward, list[Array], Array]:
    """The right forward and the oracle's backward, of the inputs that `case` looks at; these, dy.

    The gradients are copies in C order: strides are no fault, but some frameworks refuse them.
    """
    problem = case.problem
    arrays = {name: getattr(problem, name) for name in ("x", "w", "b")}

    def forward(*inputs: Any) -> Array:
        x, w, b = (arrays | dict(zip(case.inputs, map(np.asarray, inputs)))).values()
        return conv_forward(x, w, b, case.params)

    def backward(*inputs_and_dy: Any) -> tuple[Array, ...]:
        *inputs, dy = map(np.asarray, inputs_and_dy)
        x, w, b = (arrays | dict(zip(case.inputs, inputs))).values()
        grads = oracle.grads(ConvProblem(x, w, b, dy, case.params))
        return tuple(np.array(getattr(grads, f"d{name}"), order="C") for name in case.inputs)

    return forward, backward, [arrays[name] for name in case.inputs], problem.dy


def pairs(oracle: Oracle, case: Case, right: ConvGrads) -> list[tuple[Array, Array]]:
    """What the oracle answers and what is right, of each gradient."""
    problem = replace(case.problem, dy=case.problem.dy.copy())  # some write to it
    grads = oracle.grads(problem)
    return [(getattr(grads, f"d{name}"), getattr(right, f"d{name}")) for name in case.inputs]


def gradcheck(oracle: Oracle, case: Case, *, fast: bool) -> bool:
    """With the defaults, in float64."""
    forward, backward, inputs, _ = functions(oracle, case)
    return peers.gradcheck(forward, backward, inputs, fast=fast)


def assert_close(oracle: Oracle, case: Case) -> bool:
    """With the defaults, and PyTorch's own gradients for what is right."""
    return peers.assert_close(*zip(*pairs(oracle, case, _of_pytorch(case))))


@functools.cache
def _of_pytorch(case: Case) -> ConvGrads:
    from oracles import pytorch

    return pytorch.contiguous.grads(case.problem)


def check_grads(oracle: Oracle, case: Case) -> bool:
    """With the defaults."""
    return peers.check_grads(*functions(oracle, case))


def check_grads_bilinear(oracle: Oracle, case: Case) -> bool:
    """With the step of 1 and the tolerance of JAX's tests of convolutions."""
    options = {"eps": 1.0, "atol": case.tolerance, "rtol": case.tolerance}
    return peers.check_grads(*functions(oracle, case), **options)


def compute_gradient(oracle: Oracle, case: Case) -> bool:
    """With the largest error that TensorFlow's test allows."""
    forward, backward, [array], dy = functions(oracle, case)
    array = np.random.default_rng(0).random(array.shape).astype(array.dtype)
    [(one, other)] = peers.compute_gradient(forward, backward, [array], dy)
    assert case.tolerance is not None
    return bool(np.abs(one - other).max() < case.tolerance)


def assert_similar_outputs(oracle: Oracle, case: Case) -> bool:
    """As ONNX's own runner compares, with the tolerance of its node tests."""
    from onnx.backend.test.runner import Runner

    got, want = zip(*pairs(oracle, case, case.right))
    try:
        Runner.assert_similar_outputs(want, got, rtol=1e-3, atol=1e-7)
    except AssertionError:
        return False
    return True


def allclose(oracle: Oracle, case: Case) -> bool:
    """np.allclose with its defaults."""
    return all(np.allclose(got, want) for got, want in pairs(oracle, case, case.right))


def _both_dtypes(cases: Callable[[str], Iterable[Case]]) -> Callable[[], list[Case]]:
    return lambda: [*cases("float64"), *cases("float32")]


JUDGES = {
    judge.name: judge
    for judge in (
        Judge(
            "gradcheck slow",
            "torch.autograd.gradcheck on PyTorch's sample inputs, float64",
            ("torch",),
            lambda: peer_cases.pytorch("float64"),
            functools.partial(gradcheck, fast=False),
        ),
        Judge(
            "gradcheck fast",
            "the same with fast_mode=True",
            ("torch",),
            lambda: peer_cases.pytorch("float64"),
            functools.partial(gradcheck, fast=True),
        ),
        Judge(
            "assert_close",
            "torch.testing.assert_close with PyTorch's own gradients, on the same inputs, "
            "float64 and float32",
            ("torch",),
            _both_dtypes(peer_cases.pytorch),
            assert_close,
        ),
        Judge(
            "check_grads",
            "jax.test_util.check_grads, order 1, reverse mode, on the cases of JAX's "
            "lax_autodiff_test.py, float64 and float32",
            ("jax",),
            _both_dtypes(peer_cases.jax),
            check_grads,
        ),
        Judge(
            "check_grads bilinear",
            "the same with eps=1 and the tolerances of that file",
            ("jax",),
            _both_dtypes(peer_cases.jax),
            check_grads_bilinear,
        ),
        Judge(
            "compute_gradient",
            "tf.test.compute_gradient on the cases of TensorFlow's conv_ops_test.py and "
            "conv_ops_3d_test.py, with their largest errors",
            ("tensorflow-cpu", "tensorflow"),
            peer_cases.tensorflow,
            compute_gradient,
        ),
        Judge(
            "ONNX node tests",
            "rtol 1e-3, atol 1e-7 on the node tests of Conv and ConvTranspose, float32",
            ("onnx",),
            peer_cases.onnx,
            assert_similar_outputs,
        ),
        Judge(
            "by hand",
            "np.allclose on cases as most projects have them: 2-D, one group, SAME, stride 1 or "
            "2, float64",
            ("numpy",),
            peer_cases.by_hand,
            allclose,
        ),
    )
}


def oracle_called(name: str) -> Oracle:
    """A mutant, or one of RIGHT."""
    if name in RIGHT:
        return lossy.Lossy(lossy.right.compute, _ANY) if name == RIGHT[0] else RoundedOnce()
    return MUTANTS[name]


Calibration = dict[str, dict[str, Any]]
"""Of each case of a judge: the seconds that it takes, and which of RIGHT it raises an alarm at."""

Cell = dict[str, Any]
"""What a judge has to say of a mutant: whether it is caught, how, on which case, and so on."""


def calibrate(judge: Judge, cases: Iterable[Case]) -> Calibration:
    """Ask about those that are right, on every case."""
    found: Calibration = {}
    for case in cases:
        alarms = []
        for name in RIGHT:
            start = time.perf_counter()
            if complaint(judge, oracle_called(name), case) is not None:
                alarms.append(name)
        found[case.name] = {"seconds": time.perf_counter() - start, "alarms": alarms}
    return found


def complaint(judge: Judge, oracle: Oracle, case: Case) -> str | None:
    """How `judge` says that something is wrong, None if it is content."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return None if judge.content(oracle, case) else "differs"
    except Exception as error:  # whatever a framework makes of a wrong shape, dtype or value
        return f"raises {type(error).__name__}"


def ask(
    judge: Judge,
    oracle: Oracle,
    cases: Iterable[Case],
    calibration: Calibration,
    tell: Callable[[str], object] = str,
) -> Cell:
    """What `judge` says of `oracle`: cases on which it is wrong of right ones are left out.

    The quickest case is first, and `tell` is told the name of each. What is predicted to go beyond
    LIMIT, from the time that a right oracle takes and from how much slower this one is, is skipped.
    """
    start = time.perf_counter()
    looked_at = getattr(oracle, "gradients", ()) or ("dx", "dw", "db")
    asked, skipped, expected = 0, 0, 0.0
    for case in sorted(cases, key=lambda case: calibration[case.name]["seconds"]):
        if calibration[case.name]["alarms"] or not oracle.domain.accepts(case.problem):
            continue
        if not {f"d{name}" for name in case.inputs} & {*looked_at}:
            continue
        seconds = calibration[case.name]["seconds"]
        elapsed = time.perf_counter() - start
        slower = max(1.0, elapsed / expected) if expected > 0.1 else 1.0
        if elapsed + slower * seconds > LIMIT:
            skipped += 1
            continue
        tell(case.name)
        asked += 1
        expected += seconds
        if (how := complaint(judge, oracle, case)) is not None:
            return _cell(start, caught=True, how=how, case=case.name, asked=asked)
    return _cell(start, caught=False, asked=asked, skipped=skipped)


def _cell(start: float, **found: Any) -> Cell:
    """`start` is when it was begun."""
    return found | {"seconds": round(time.perf_counter() - start, 2)}


def serve(connection: Connection, name: str, calibration: Calibration | None) -> None:
    """Be the judge `name`: answer with a Cell to each mutant's name, with cases' names before."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # frameworks' warnings and tracebacks
    judge = JUDGES[name]
    cases = [*judge.cases()]
    calibration = calibration or calibrate(judge, cases)
    connection.send(calibration)
    while (mutant := connection.recv()) is not None:
        connection.send(ask(judge, oracle_called(mutant), cases, calibration, connection.send))


class Apart:
    """A judge in a process of its own, which is started again where a mutant has ended it."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.calibration: Calibration | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._judge.name, self.calibration)
        )
        self._process.start()
        theirs.close()
        self.calibration = self._connection.recv()

    def ask(self, name: str) -> Cell:
        """What the judge says of a mutant; that it ends the process, or hangs, is an alarm, too.

        One that only computes, and is stopped because it is slow, is not caught.
        """
        start, case = time.perf_counter(), ""
        self._connection.send(name)
        how = "hangs" if getattr(oracle_called(name), "needs_process", False) else "too slow"
        while self._connection.poll(max(0.0, start + LIMIT + GRACE - time.perf_counter())):
            try:
                message = self._connection.recv()
            except EOFError:
                self._process.join()
                how = f"ends with {_ending(self._process.exitcode)}"
                break
            if not isinstance(message, str):
                return dict(message)
            case = message
        self._process.kill()
        self._process.join()
        self._start()
        return _cell(start, caught=how != "too slow", how=how, case=case)

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"


def judged(judge: Judge, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Cell]]:
    """What there is to say of a judge, and what it says of each mutant."""
    start = time.perf_counter()
    apart = Apart(judge)
    assert apart.calibration is not None
    of_judge = {
        "words": judge.words,
        "version": peers.version(judge.distributions),
        "cases": len(apart.calibration),
        "seconds": round(sum(one["seconds"] for one in apart.calibration.values()), 2),
        "false_alarms": {
            right: [case for case, one in apart.calibration.items() if right in one["alarms"]]
            for right in RIGHT
        },
    }
    print(f"{judge.name}: {of_judge} {time.perf_counter() - start:.0f} s", flush=True)
    cells = {}
    for name in names:
        cells[name] = apart.ask(name)
        print(f"  {judge.name} {name} {cells[name]}", flush=True)
    apart.close()
    return of_judge, cells


def text_of(found: Mapping[str, Any]) -> str:
    """As JSON, in the order of the names, with a line for each mutant and judge."""
    rows = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(
            f"   {json.dumps(judge)}: {json.dumps(cell, sort_keys=True)}"
            for judge, cell in sorted(cells.items())
        )
        + "\n  }"
        for name, cells in sorted(found["mutants"].items())
    ]
    rest = {key: value for key, value in found.items() if key != "mutants"}
    head = json.dumps(rest, indent=1, sort_keys=True).removesuffix("\n}")
    return f'{head},\n "mutants": {{\n' + ",\n".join(rows) + "\n }\n}\n"


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask the judges that are installed about the mutants, and keep what they say."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="who catches which mutant")
    parser.add_argument("--write", metavar="FILE", type=Path, help="keep what is found, as JSON")
    parser.add_argument("--judge", action="append", choices=JUDGES, help="only it (repeatable)")
    parser.add_argument("--mutant", action="append", choices=MUTANTS, help="only it (repeatable)")
    given = parser.parse_args(arguments)
    threads = {key: value for key, value in ENVIRONMENT.items() if "THREADS" in key}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", **threads}
    found: dict[str, Any] = {"judges": {}, "mutants": {}}
    if given.write is not None and given.write.exists():
        found = json.loads(given.write.read_text())
    found |= {"limit": LIMIT, "numpy": np.__version__, "python": platform.python_version()}
    for name in given.judge or JUDGES:
        judge = JUDGES[name]
        if peers.version(judge.distributions) is None:
            print(f"{name}: {' or '.join(judge.distributions)} is not installed")
            continue
        found["judges"][name], cells = judged(judge, given.mutant or [*MUTANTS])
        for mutant, cell in cells.items():
            found["mutants"].setdefault(mutant, {})[name] = cell
        if given.write is not None:
            write(given.write, text_of(found))


if __name__ == "__main__":
    main()
