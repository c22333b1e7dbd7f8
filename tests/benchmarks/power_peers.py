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

from oracles.process import ENVIRONMENT
from oracles.protocol import DTYPES, Box, Domain, Oracle
from reference import ConvGrads, ConvProblem, conv_forward
from reference.problem import Array
from tests.benchmarks import peer_cases, peers
from tests.benchmarks.peer_cases import Case
from tests.support.mutants import ALLOWED, MUTANTS
from tests.support.regressions import write_atomically

COMMAND = "python -m tests.benchmarks.power_peers"
LIMIT = 20.0  # seconds of computing that a judge may take for one mutant, if no others are given
VAIN = 0.5  # and for cases whose own data the mutant answers rightly, if the limit is too short
DEAR = 1.0  # seconds beyond which a case is asked about no more than one that is right
HANGS = 30.0  # seconds after which a case is stopped
SLOWER = 30.0  # times what a right oracle takes, in addition: the machine may be busy


class RoundedOnce:
    """An oracle that is as right as can be."""

    distribution = None
    domain = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES))
    gradients = ("y",)  # so that its own forward is asked: there is noise in that, too

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The gradients and y."""
        return peer_cases.rounded_once(problem)


ORACLES: Mapping[str, Oracle] = {**MUTANTS, **ALLOWED, "rounded_once": RoundedOnce()}
RIGHT = ("unmutated", "dw_outputs_summed_backwards", "rounded_once")
NAMES = (*MUTANTS, *ALLOWED)


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
    """A forward and the oracle's backward, of the inputs that `case` looks at; these, and dy.

    The forward is the right one, but of an oracle that spoils y alone it is its own. The gradients
    are in C order: strides are no fault, but some frameworks refuse them.
    """
    problem = _copy(case.problem)
    arrays = {name: getattr(problem, name) for name in ("x", "w", "b")}

    def forward(*inputs: Any) -> Array:
        x, w, b = (arrays | dict(zip(case.inputs, map(np.asarray, inputs)))).values()
        if getattr(oracle, "gradients", ()) != ("y",):
            return conv_forward(x, w, b, case.params)
        y = oracle.grads(ConvProblem(x, w, b, problem.dy, case.params)).y
        assert y is not None
        return y

    def backward(*inputs_and_dy: Any) -> tuple[Array, ...]:
        *inputs, dy = map(np.asarray, inputs_and_dy)
        x, w, b = (arrays | dict(zip(case.inputs, inputs))).values()
        grads = oracle.grads(ConvProblem(x, w, b, dy, case.params))
        return tuple(np.ascontiguousarray(getattr(grads, f"d{name}")) for name in case.inputs)

    return forward, backward, [arrays[name] for name in case.inputs], problem.dy


def pairs(oracle: Oracle, case: Case, right: ConvGrads) -> list[tuple[Array, Array]]:
    """What the oracle answers and what is right, of each gradient, and of y if there is one."""
    grads = oracle.grads(_copy(case.problem))
    names = [f"d{name}" for name in case.inputs] + ["y"] * (grads.y is not None)
    return [(getattr(grads, name), getattr(right, name)) for name in names]


def _copy(problem: ConvProblem) -> ConvProblem:
    """The same in memory of its own: some mutants write to it."""
    arrays = {name: getattr(problem, name) for name in ("x", "w", "b", "dy")}
    return replace(problem, **{n: None if a is None else a.copy() for n, a in arrays.items()})


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
    return peers.check_vjp(*functions(oracle, case))


def check_grads_bilinear(oracle: Oracle, case: Case) -> bool:
    """With the step of 1 and the tolerance of JAX's tests of convolutions."""
    options = {"eps": 1.0, "atol": case.tolerance, "rtol": case.tolerance}
    return peers.check_vjp(*functions(oracle, case), **options)


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
        # the tolerance is the peer's own: the peer is what is measured
        Runner.assert_similar_outputs(want, got, rtol=1e-3, atol=1e-7)
    except AssertionError:
        return False
    return True


def allclose(oracle: Oracle, case: Case) -> bool:
    """np.allclose with its defaults: what is measured, not what we judge by."""
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


Calibration = dict[str, dict[str, Any]]
"""Of each case of a judge: the seconds that it takes, and which of RIGHT it raises an alarm at."""

Cell = dict[str, Any]
"""What a judge has to say of a mutant: whether it is caught, how, on which case, and so on."""


def calibrate(judge: Judge, cases: Iterable[Case]) -> Calibration:
    """Ask about those that are right, on every case."""
    found: Calibration = {}
    for case in cases:
        alarms, seconds = [], []
        for name in RIGHT:
            start = time.process_time()
            if complaint(judge, ORACLES[name], case) is not None:
                alarms.append(name)
            seconds.append(time.process_time() - start)
            if seconds[0] > DEAR:
                break
        found[case.name] = {"seconds": min(seconds), "alarms": alarms}
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
    limit: float = LIMIT,
    tell: Callable[[str], object] = str,
) -> Cell:
    """What `judge` says of `oracle`: cases on which it is wrong of right ones are left out.

    `tell` is told the name of each case. Skipped is what is predicted to go beyond `limit`, from
    what a right oracle takes and from how much slower this one is. Where there is not the time for
    all, cases are first whose own data the oracle answers wrongly, the others get VAIN seconds, and
    `in_vain` says how many of them were skipped. The quickest are first.
    """
    start = time.process_time()
    looked_at = getattr(oracle, "gradients", ()) or ("dx", "dw", "db", "y")
    costs = {
        case: calibration[case.name]["seconds"]
        for case in cases
        if not calibration[case.name]["alarms"]
        and {"y", *(f"d{name}" for name in case.inputs)} & {*looked_at}
        and oracle.domain.accepts(case.problem)
    }
    wrong = {*costs}
    if sum(costs.values()) > limit:
        wrong = {case for case in costs if not is_right(oracle, case, tell)}
    asked, skipped, expected = 0, [], 0.0
    for case in sorted(costs, key=lambda case: (case not in wrong, costs[case])):
        elapsed = time.process_time() - start
        slower = max(1.0, elapsed / expected) if expected > 0.1 else 1.0
        if elapsed + slower * costs[case] > (limit if case in wrong else min(limit, VAIN)):
            skipped.append(case)
            continue
        tell(case.name)
        asked += 1
        expected += costs[case]
        if (how := complaint(judge, oracle, case)) is not None:
            return _cell(start, caught=True, how=how, case=case.name, asked=asked)
    in_vain = len({*skipped} - wrong)
    skips = {"skipped": len(skipped) - in_vain, "in_vain": in_vain}
    return _cell(start, caught=False, asked=asked, **skips)


def is_right(oracle: Oracle, case: Case, tell: Callable[[str], object] = str) -> bool:
    """Whether the oracle's answer to the case's own data is the reference's, but for rounding."""
    problem = _copy(case.problem)
    tell(case.name)
    try:
        got = oracle.grads(problem)
    except Exception:  # what it is, the judge will see
        return False
    want = _of_reference(case)
    names = ("x", "w", "b", "dy")
    arrays = [(getattr(got, name), getattr(want, name)) for name in ("dx", "dw", "db", "y")]
    arrays += [(getattr(problem, name), getattr(case.problem, name)) for name in names]
    return all(
        one is other or (isinstance(one, np.ndarray) and _same(one, other)) for one, other in arrays
    )


@np.errstate(all="ignore")
def _same(one: Array, other: Array) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    few = 64 * float(np.finfo(other.dtype).eps)
    return bool(np.all(np.abs(one - other) <= few * np.abs(other).max(initial=0)))


@functools.cache
def _of_reference(case: Case) -> ConvGrads:
    return ORACLES["unmutated"].grads(case.problem)


def _cell(start: float, **found: Any) -> Cell:
    """`start` is when it was begun."""
    return found | {"seconds": round(time.process_time() - start, 2)}


def serve(connection: Connection, name: str, calibration: Calibration | None, limit: float) -> None:
    """Be the judge `name`: answer with a Cell to each mutant's name, with cases' names before."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # frameworks' warnings and tracebacks
    judge = JUDGES[name]
    cases = [*judge.cases()]
    calibration = calibration or calibrate(judge, cases)
    connection.send(calibration)
    while (mutant := connection.recv()) is not None:
        oracle = ORACLES[mutant]
        connection.send(ask(judge, oracle, cases, calibration, limit, connection.send))


class Apart:
    """A judge in a process of its own, which is started again where a mutant has ended it."""

    def __init__(
        self, judge: Judge, limit: float = LIMIT, target: Callable[..., None] = serve
    ) -> None:
        self._judge = judge
        self._limit = limit
        self._target = target
        self.calibration: Calibration | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=self._target, args=(theirs, self._judge.name, self.calibration, self._limit)
        )
        self._process.start()
        theirs.close()
        self.calibration = self._connection.recv()

    def ask(self, name: str) -> Cell:
        """What the judge says of a mutant; that it ends the process, or hangs, is an alarm, too.

        One that only computes, and is stopped because it is slow, is not caught.
        """
        start, case = time.monotonic(), ""
        self._connection.send(name)
        how = "hangs" if getattr(ORACLES[name], "needs_process", False) else "too slow"
        while self._connection.poll(HANGS + SLOWER * self._seconds(case)):
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
        seconds = round(time.monotonic() - start, 2)
        return {"caught": how != "too slow", "how": how, "case": case, "seconds": seconds}

    def _seconds(self, case: str) -> float:
        """What `case` takes a right oracle."""
        calibration: Calibration = self.calibration or {}
        return float(calibration.get(case, {"seconds": 0})["seconds"])

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"


def judged(
    judge: Judge, names: Sequence[str], limit: float = LIMIT
) -> tuple[dict[str, Any], dict[str, Cell]]:
    """What there is to say of a judge, and what it says of each mutant."""
    apart = Apart(judge, limit)
    assert apart.calibration is not None
    of_judge = {
        "words": judge.words,
        "version": peers.version(judge.distributions),
        "limit": limit,
        "cases": len(apart.calibration),
        "seconds": round(sum(one["seconds"] for one in apart.calibration.values()), 2),
        "false_alarms": {
            right: [case for case, one in apart.calibration.items() if right in one["alarms"]]
            for right in RIGHT
        },
    }
    print(f"{judge.name}: {of_judge}", flush=True)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask the judges that are installed about the mutants, and keep what they say."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="who catches which mutant")
    parser.add_argument("--write", metavar="FILE", type=Path, help="keep what is found, as JSON")
    parser.add_argument("--judge", action="append", choices=JUDGES, help="only it (repeatable)")
    parser.add_argument("--mutant", action="append", choices=NAMES, help="only it (repeatable)")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds for a mutant (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    threads = {key: value for key, value in ENVIRONMENT.items() if "THREADS" in key}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", **threads}
    for name in given.judge or JUDGES:
        judge = JUDGES[name]
        if peers.version(judge.distributions) is None:
            print(f"{name}: {' or '.join(judge.distributions)} is not installed")
            continue
        of_judge, cells = judged(judge, given.mutant or NAMES, given.limit)
        if given.write is not None:
            write_atomically(given.write, text_of(with_judge(given.write, name, of_judge, cells)))


def with_judge(
    path: Path, name: str, of_judge: Mapping[str, Any], cells: Mapping[str, Cell]
) -> dict[str, Any]:
    """What is in the file, if there is one, and what has been found of one judge."""
    found = json.loads(path.read_text()) if path.exists() else {"judges": {}, "mutants": {}}
    found |= {"numpy": np.__version__, "python": platform.python_version()}
    found["judges"][name] = of_judge
    for mutant, cell in cells.items():
        found["mutants"].setdefault(mutant, {})[name] = cell
    return dict(found)


if __name__ == "__main__":
    main()
