"""Verdicts: an oracle's answer against the reference, and who is wrong where they differ.

Exact mode: the data are integers whose partial sums are all representable, so every order of
summation gives the same result and agreement is `==`. There is no tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from oracles.protocol import OracleError, describe
from oracles.worker import Connection
from reference.conv import conv_backward, conv_forward
from reference.naive import naive_conv_backward, naive_conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

RESULTS = ("dx", "dw", "db", "y")
EXACT_LIMIT = 20_000  # elements of dy up to which the court computes in rational arithmetic


class Disagreement(AssertionError):
    """A verdict other than "agrees"; the first line says who is wrong, where and by how much."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


class NoAnswer(Disagreement):
    """There is no answer to compare; a class of its own, so that Hypothesis shrinks it apart."""


@dataclass(frozen=True)
class Verdict:
    """What comparing an oracle's answer with the reference says.

    `kind` is "agrees", "differs" or the kind of an `OracleError` ("crashes", "hangs", "raises",
    "malformed", "does not start"). `results` says of dx, dw, db and y whether they agree, None
    where the oracle does not claim it. `log` is what the oracle's process wrote.
    """

    oracle: str
    problem: ConvProblem
    kind: str
    message: str = ""
    results: dict[str, bool | None] = field(default_factory=dict)
    log: str = ""

    def check(self) -> None:
        """Raise Disagreement, with a script that shows it, unless the oracle agrees."""
        __tracebackhide__ = True
        if self.kind == "agrees":
            return
        log = f"\n\n{self.log}" if self.log else ""
        message = f"{self.message}\n\n{reproduction(self.oracle, self.problem)}{log}"
        raise (Disagreement if self.kind == "differs" else NoAnswer)(message, self)


def judge(
    oracle: Connection, problem: ConvProblem, witnesses: Sequence[Connection] = ()
) -> Verdict:
    """Ask `oracle` for the gradients of `problem` and compare them with the reference's.

    `witnesses` are the oracles that are asked too if the two differ. An answer that differs but is
    right in a new process is an incident: something has spoilt the memory of the old one.
    """
    verdict = _judge_once(oracle, problem, witnesses)
    if verdict.kind != "differs" or not oracle.renew():
        return verdict
    again = _judge_once(oracle, problem, witnesses)
    if again.kind == "agrees":
        words = verdict.message.removeprefix(f"{oracle.name} ").partition(" [")[0]
        oracle.report(f"{words}; right in a new process", problem)
    return again


def _judge_once(
    oracle: Connection, problem: ConvProblem, witnesses: Sequence[Connection]
) -> Verdict:
    about = f"[{describe(problem)}]"
    try:
        want = reference_grads(problem)
    except Exception as error:
        message = f"reference raises {type(error).__name__}: {error} {about}"
        return Verdict(oracle.name, problem, "differs", message)
    try:
        got = oracle.grads(problem)
    except OracleError as error:
        message = f"{oracle.name} {error} {about}"
        return Verdict(oracle.name, problem, error.kind, message, log=error.log)
    message = ""
    results: dict[str, bool | None] = {}
    for name, like in (("dx", problem.x), ("dw", problem.w), ("db", problem.b), ("y", problem.dy)):
        answer, expected = getattr(got, name), getattr(want, name)
        if answer is None or expected is None or like is None:
            results[name] = None
            continue
        form = _wrong_form("reference", name, expected, like)
        form = form or _wrong_form(oracle.name, name, answer, like)
        index = None if form else first_difference(answer, expected)
        results[name] = not form and index is None
        if message or results[name]:
            continue
        if form:
            message = f"{form} {about}"
        elif index is not None:
            message = _court(oracle, problem, name, index, got, want, witnesses)
    return Verdict(oracle.name, problem, "differs" if message else "agrees", message, results)


def _wrong_form(who: str, name: str, array: Array, like: Array) -> str:
    """How the shape or dtype of a result differs from that of the array it belongs to; else ""."""
    for what in ("shape", "dtype"):
        got, expected = getattr(array, what), getattr(like, what)
        if got != expected:
            return f"{who} {name}.{what} = {got}, but should be {expected}"
    return ""


def first_difference(got: Array, want: Array) -> tuple[int, ...] | None:
    """The first index at which two arrays of one shape differ, None where they agree.

    NaN agrees with nothing.
    """
    bad = ~(got == want)
    if not bad.any():
        return None
    return tuple(int(axis[0]) for axis in np.nonzero(bad))


def reference_grads(problem: ConvProblem) -> ConvGrads:
    """The reference's dx, dw, db (None without a bias) and y for `problem`."""
    grads = conv_backward(problem.x, problem.w, problem.dy, problem.params)
    y = conv_forward(problem.x, problem.w, problem.b, problem.params)
    return ConvGrads(grads.dx, grads.dw, None if problem.b is None else grads.db, y)


def exact_grads(problem: ConvProblem) -> ConvGrads:
    """The same in rational arithmetic, as object arrays; the data must be finite."""
    x, w, dy = (_rational(array) for array in (problem.x, problem.w, problem.dy))
    b = None if problem.b is None else _rational(problem.b)
    grads = naive_conv_backward(x, w, dy, problem.params)
    y = naive_conv_forward(x, w, b, problem.params)
    return ConvGrads(grads.dx, grads.dw, None if b is None else grads.db, y)


def reproduction(oracle: str, problem: ConvProblem) -> str:
    """A script, to be run from the project's root, that judges `oracle` on `problem`."""
    return (
        "import numpy as np\n"
        "from oracles import registry\n"
        "from oracles.compare import judge\n"
        "from reference import ConvParams, ConvProblem\n\n"
        f"problem = {problem!r}\n"
        f"judge(registry.connect(registry.find({oracle!r})), problem).check()"
    )


def _court(
    oracle: Connection,
    problem: ConvProblem,
    name: str,
    index: tuple[int, ...],
    got: ConvGrads,
    want: ConvGrads,
    witnesses: Sequence[Connection],
) -> str:
    """Who is wrong at `name`[`index`]: the reference only if rational arithmetic says so."""
    answers = {oracle.name: got, "reference": want}
    for witness in witnesses:
        if witness.name != oracle.name and witness.domain.accepts(problem):
            try:
                answers[witness.name] = witness.grads(problem)
            except OracleError:
                continue  # its own test names this
    arrays = (problem.x, problem.w, problem.b, problem.dy)
    finite = all(np.isfinite(array).all() for array in arrays if array is not None)
    culprit = oracle.name
    if finite and problem.dy.size <= EXACT_LIMIT:
        answers["exact"] = exact_grads(problem)
        for result in ("y", name):  # a wrong forward spoils what is derived from it
            ours = first_difference(getattr(want, result), getattr(answers["exact"], result))
            if ours is not None:
                culprit, name, index = "reference", result, ours
                break
    truth = getattr(answers.get("exact", want), name)
    values = {
        who: getattr(answer, name)
        for who, answer in answers.items()
        if getattr(answer, name) is not None and getattr(answer, name).shape == truth.shape
    }
    agree = [who for who, value in values.items() if value[index] == truth[index]]
    bad = int(np.sum(~(values[culprit] == truth)))
    sentence = (
        f"{culprit} {name}[{', '.join(map(str, index))}] = {_number(values[culprit][index])}, "
        f"but should be {_number(truth[index])} (allowed 0; {bad} of {truth.size} elements differ; "
        f"{', '.join(agree) or 'none'} agree) [{describe(problem)}]"
    )
    identity = _adjoint_identity(problem, name, answers[culprit]) if "exact" in answers else ""
    return sentence + identity


def _adjoint_identity(problem: ConvProblem, name: str, answer: ConvGrads) -> str:
    """The adjoint identity that `answer` breaks, <dx, x> or <dw, w> = <dy, conv(x, w)>; else ""."""
    if name not in ("dx", "dw") or not np.isfinite(getattr(answer, name)).all():
        return ""
    x, w, dy = (_rational(array) for array in (problem.x, problem.w, problem.dy))
    other = {"dx": x, "dw": w}[name]
    left = np.sum(_rational(getattr(answer, name)) * other)
    right = np.sum(dy * naive_conv_forward(x, w, None, problem.params))
    if left == right:
        return ""
    return f"\n<{name}, {name[1]}> = {_number(left)}, but <dy, conv(x, w)> = {_number(right)}"


def _rational(array: Array) -> Array:
    """`array` as Python ints where it holds integers, else as Fractions: exact either way."""
    values = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        value: Any = array[index]
        fraction = Fraction(*value.as_integer_ratio())
        values[index] = fraction.numerator if fraction.denominator == 1 else fraction
    return values


def _number(value: Any) -> str:
    if isinstance(value, (int, Fraction)):
        return str(value)
    return f"{float(value):.17g}"
