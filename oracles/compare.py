"""Verdicts: an oracle's answer against the reference, and who is wrong where they differ.

Exact mode: the data are integers whose partial sums are all representable, so every order of
summation gives the same result and agreement is `==`. There is no tolerance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from oracles.protocol import Differs, Evidence, OracleError, describe
from oracles.worker import Connection
from reference.conv import conv_backward, conv_forward
from reference.naive import naive_conv_backward, naive_conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

RESULTS = ("dx", "dw", "db", "y")
EXACT_LIMIT = 20_000  # elements of dy up to which the court computes in rational arithmetic


class Disagreement(AssertionError):
    """A verdict other than "agrees"; the first line says who is wrong, where and by how much."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict

    def __str__(self) -> str:
        verdict = self.verdict
        log = f"\n\n{verdict.log}" if verdict.log else ""
        return f"{verdict.message}\n\n{reproduction(verdict)}{log}"


class NoAnswer(Disagreement):
    """There is no answer to compare; a class of its own, so that Hypothesis shrinks it apart."""


@dataclass(frozen=True)
class Verdict:
    """What comparing an oracle's answer with the reference says.

    `kind` is "agrees", "differs" or the kind of an `OracleError` ("crashes", "hangs", "raises",
    "malformed", "does not start"). `results` says of dx, dw, db and y whether they agree, None
    where the oracle does not claim it. `log` is what the oracle's process wrote, `evidence` what
    makes the fault show. `words` are the message, or what finds it out: only one failure in many is
    shown to somebody, and the court takes its time.
    """

    oracle: str
    problem: ConvProblem
    kind: str
    words: str | Callable[[], str] = ""
    results: dict[str, bool | None] = field(default_factory=dict)
    log: str = ""
    evidence: Evidence | None = None

    @functools.cached_property
    def message(self) -> str:
        """Who is wrong, where and by how much, in one line or two; "" if the oracle agrees."""
        return self.words if isinstance(self.words, str) else self.words()

    def failure(self) -> Disagreement:
        """The exception for a verdict other than "agrees"; it ends with a script that shows it."""
        return (Disagreement if self.kind == "differs" else NoAnswer)(self)

    def check(self) -> None:
        """Raise `failure()` unless the oracle agrees."""
        __tracebackhide__ = True
        if self.kind != "agrees":
            raise self.failure()


def judge(
    oracle: Connection, problem: ConvProblem, witnesses: Sequence[Connection] = ()
) -> Verdict:
    """Ask `oracle` for the gradients of `problem` and compare them with the reference's.

    `witnesses` are the oracles that are asked too if the two differ. The verdict's problem is the
    one to blame: where something that was asked before has spoilt the oracle's memory, it is that.
    """
    try:
        want = reference_grads(problem)
    except Exception as error:
        message = f"reference raises {type(error).__name__}: {error} [{describe(problem)}]"
        return Verdict(oracle.name, problem, "differs", message)

    def wrong(asked: ConvProblem, got: ConvGrads) -> Differs | None:
        right = want if asked is problem else reference_grads(asked)
        words = _difference(oracle.name, asked, got, right)
        return Differs(words, grads=got) if words else None

    try:
        got = oracle.grads(problem, wrong)
    except OracleError as error:
        fault = error  # which the name `error` does not outlive
    else:
        return Verdict(oracle.name, problem, "agrees", results=_results(problem, got, want))
    evidence = fault.evidence or Evidence(problem)
    guilty = evidence.problem
    results: dict[str, bool | None] = {}
    if isinstance(fault, Differs):
        want = want if guilty is problem else reference_grads(guilty)
        results = _results(guilty, fault.grads, want)
    return Verdict(
        oracle.name,
        guilty,
        fault.kind,
        lambda: _sentence(oracle, fault, evidence, want, witnesses),
        results,
        fault.log,
        evidence,
    )


def _sentence(
    oracle: Connection,
    fault: OracleError,
    evidence: Evidence,
    want: ConvGrads,
    witnesses: Sequence[Connection],
) -> str:
    """The message of a verdict other than "agrees"."""
    about = f"[{describe(evidence.problem)}]"
    message = f"{oracle.name} {fault} {about}"
    if isinstance(fault, Differs):
        message = f"{fault}{evidence} {about}"
        if (found := _first_wrong(fault.grads, want, evidence.problem)) is not None:
            message = _court(oracle, evidence, *found, fault.grads, want, witnesses)
    if evidence.before:
        message += f"\nasked before it: [{describe(evidence.before[-1])}]"
    if evidence.seen_at is not None:
        message += f"\nfirst seen while it answered [{describe(evidence.seen_at)}]"
    return message


def _compared(
    problem: ConvProblem, got: ConvGrads, want: ConvGrads
) -> Iterator[tuple[str, Array, Array, Array]]:
    """Name, answer, right answer and the array of equal form, of each result that was claimed."""
    for name, like in (("dx", problem.x), ("dw", problem.w), ("db", problem.b), ("y", problem.dy)):
        answer, right = getattr(got, name), getattr(want, name)
        if answer is not None and right is not None and like is not None:
            yield name, answer, right, like


def _difference(who: str, problem: ConvProblem, got: ConvGrads, want: ConvGrads) -> str:
    """A sentence on the first result that is not the right one; "" if they all are."""
    for name, answer, right, like in _compared(problem, got, want):
        form = _wrong_form("reference", name, right, like) or _wrong_form(who, name, answer, like)
        if form:
            return form
        if (index := first_difference(answer, right)) is not None:
            return f"{who} {name}[{', '.join(map(str, index))}] = {_number(answer[index])}"
    return ""


def _first_wrong(
    got: ConvGrads, want: ConvGrads, problem: ConvProblem
) -> tuple[str, tuple[int, ...]] | None:
    """The first result that is not the right one, and where; None if it has not even the form."""
    for name, answer, right, like in _compared(problem, got, want):
        if any(_wrong_form("", name, array, like) for array in (answer, right)):
            return None
        if (index := first_difference(answer, right)) is not None:
            return name, index
    return None


def _results(problem: ConvProblem, got: ConvGrads, want: ConvGrads) -> dict[str, bool | None]:
    """Of dx, dw, db and y, whether they agree; None where there is nothing to compare."""
    results: dict[str, bool | None] = dict.fromkeys(RESULTS)
    for name, answer, right, like in _compared(problem, got, want):
        formed = not any(_wrong_form("", name, array, like) for array in (answer, right))
        results[name] = formed and first_difference(answer, right) is None
    return results


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


def reproduction(verdict: Verdict) -> str:
    """A script, to be run from the project's root, that comes to `verdict` again."""
    evidence = verdict.evidence or Evidence(verdict.problem)
    lines = [
        "import numpy as np",
        "from oracles import registry",
        "from oracles.compare import judge",
        "from reference import ConvParams, ConvProblem",
        "",
        f"problem = {verdict.problem!r}",
        f"oracle = registry.connect(registry.find({verdict.oracle!r}))",
    ]
    if evidence.before:
        before = ", ".join(map(repr, evidence.before))
        lines += [f"for other in [{before}]:", "    oracle.grads(other)"]
    if evidence.asks > 1:
        lines += [f"for _ in range({2 * evidence.asks}):", "    judge(oracle, problem).check()"]
    else:
        lines.append("judge(oracle, problem).check()")
    return "\n".join(lines)


def _court(
    oracle: Connection,
    evidence: Evidence,
    name: str,
    index: tuple[int, ...],
    got: ConvGrads,
    want: ConvGrads,
    witnesses: Sequence[Connection],
) -> str:
    """Who is wrong at `name`[`index`]: the reference only if rational arithmetic says so."""
    problem = evidence.problem
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
        f"{', '.join(agree) or 'none'} agree){evidence} [{describe(problem)}]"
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
