"""Verdicts: an oracle's answer against the right one, and who is wrong where they differ.

There is no tolerance. What can be represented exactly whatever the order of summation, as sums of
small integers can, must be equal; anything else may be off by what rounding can do to that very
element, and no more: `reference.rounding` derives how much.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from oracles.protocol import Differs, Domain, Evidence, OracleError, describe
from oracles.worker import Connection
from reference.conv import conv_backward, conv_forward
from reference.naive import naive_conv_backward, naive_conv_forward
from reference.problem import Array, ConvGrads, ConvProblem
from reference.rounding import (
    RESULTS,
    Expected,
    as_doubles,
    as_rationals,
    expect,
    finite_part,
    is_finite,
    signs_of,
    with_special_values,
)

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

    `kind` is "agrees", "differs", "imprecise" (of a probe) or the kind of an `OracleError`
    ("crashes", "hangs", "raises", "malformed", "does not start"). `results` says of dx, dw, db and
    y whether they agree, None where the oracle does not claim it; `ratios`, of an oracle that
    agrees, error / bound of those elements of a result that need not be equal; `errors`, of the
    results that differ, how far off each element is, NaN where that is no number. `log` is what the
    oracle's process wrote,
    `evidence` what makes the fault show. `words` are the message, or what finds it out: only one
    failure in many is shown to somebody, and the court takes its time.
    """

    oracle: str
    problem: ConvProblem
    kind: str
    words: str | Callable[[], str] = ""
    results: dict[str, bool | None] = field(default_factory=dict)
    log: str = ""
    evidence: Evidence | None = None
    ratios: dict[str, Array] = field(default_factory=dict)
    errors: dict[str, Array] = field(default_factory=dict)

    @property
    def shown_by(self) -> Evidence:
        """The evidence; without any, that the problem shows it when it is asked once."""
        return self.evidence or Evidence(self.problem)

    @functools.cached_property
    def message(self) -> str:
        """Who is wrong, where and by how much, in one line or two; "" if the oracle agrees."""
        return self.words if isinstance(self.words, str) else self.words()

    def failure(self) -> Disagreement:
        """The exception for a verdict other than "agrees"; it ends with a script that shows it."""
        return (Disagreement if self.kind in ("differs", "imprecise") else NoAnswer)(self)

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
    return Question(oracle, problem, lambda: witnesses).verdict()


class Question:
    """A problem that an oracle is to be judged by, as `judge` does, at once or in two steps.

    `begin` has the oracle compute in its own process, and the reference in this one; `verdict`
    waits for the answer. In between the oracle must be asked nothing but what is begun later.
    `witnesses` gives the oracles that are asked too if the two differ.
    """

    def __init__(
        self,
        oracle: Connection,
        problem: ConvProblem,
        witnesses: Callable[[], Sequence[Connection]] = tuple,
    ) -> None:
        self.oracle = oracle
        self.problem = problem
        self._witnesses = witnesses

    def begin(self) -> None:
        """Ask, and do not wait."""
        self.oracle.begin(self.problem)
        with contextlib.suppress(_ReferenceRaises):  # again, for the verdict
            _ = self._standard

    @property
    def want(self) -> ConvGrads | None:
        """The right results in higher precision; None before `begin`."""
        standard: _Standard | None = self.__dict__.get("_standard")
        return standard.expected.want if standard else None

    def verdict(self) -> Verdict:
        """The verdict on the oracle's answer."""
        oracle, problem = self.oracle, self.problem
        try:
            got = oracle.grads(problem, self._wrong, meanwhile=lambda: self._standard)
        except _ReferenceRaises as error:
            message = f"reference raises {error} [{describe(problem)}]"
            return Verdict(oracle.name, problem, "differs", message)
        except OracleError as error:
            return self._verdict_on(error)
        results = self._standard.agreed(got)
        ratios = self._standard.ratios(got)
        return Verdict(oracle.name, problem, "agrees", results=results, ratios=ratios)

    def _verdict_on(self, fault: OracleError) -> Verdict:
        name, evidence = self.oracle.name, fault.evidence or Evidence(self.problem)
        problem = evidence.problem
        if not isinstance(fault, Differs):  # nothing to compare: the reference is not asked
            words = f"{name} {fault} [{describe(problem)}]{_history(evidence)}"
            return Verdict(name, problem, fault.kind, words, log=fault.log, evidence=evidence)
        is_other = problem is not self.problem
        standard = _Standard(problem, self.oracle) if is_other else self._standard
        return Verdict(
            name,
            problem,
            fault.kind,
            lambda: _sentence(standard, fault, evidence, self._witnesses()),
            standard.results(fault.grads),
            fault.log,
            evidence,
            errors=standard.errors(fault.grads),
        )

    @functools.cached_property
    def _standard(self) -> _Standard:
        try:
            return _Standard(self.problem, self.oracle)
        except Exception as error:
            raise _ReferenceRaises(f"{type(error).__name__}: {error}") from error

    def _wrong(self, asked: ConvProblem, got: ConvGrads) -> Differs | None:
        standard = self._standard if asked is self.problem else _Standard(asked, self.oracle)
        words = standard.difference(got)
        return Differs(words, grads=got) if words else None


class _ReferenceRaises(Exception):
    """Not an OracleError: nobody has to find out which oracle is to blame."""


class _Standard:
    """What answers of `oracle` to one problem are held against.

    That is what is expected of them, and the reference's own answer, which is held against it too.
    """

    def __init__(self, problem: ConvProblem, oracle: Connection) -> None:
        self.problem = problem
        self.oracle = oracle
        self.reference = reference_grads(problem)
        self.expected = expected_of(problem, oracle.domain)

    def difference(self, got: ConvGrads) -> str:
        """A sentence on the first result that is not a right one; "" if they all are."""
        for name, answer, reference, like in self._compared(got):
            form = _wrong_form("reference", name, reference, like)
            if form := form or _wrong_form(self.oracle.name, name, answer, like):
                return form
            for who, array in ((self.oracle.name, answer), ("reference", reference)):
                if (index := first(self.expected.wrong(name, array))) is not None:
                    return f"{who} {name}[{', '.join(map(str, index))}] = {_number(array[index])}"
        return ""

    def first_wrong(self, got: ConvGrads) -> tuple[str, tuple[int, ...]] | None:
        """The first result that is not a right one, and where; None if it has not even the form."""
        for name, answer, reference, like in self._compared(got):
            if any(_wrong_form("", name, array, like) for array in (answer, reference)):
                return None
            wrong = self.expected.wrong(name, answer) | self.expected.wrong(name, reference)
            if (index := first(wrong)) is not None:
                return name, index
        return None

    def agreed(self, got: ConvGrads) -> dict[str, bool | None]:
        """The same as `results` of an answer with no `difference`."""
        compared = {name for name, *_ in self._compared(got)}
        return {name: True if name in compared else None for name in RESULTS}

    def results(self, got: ConvGrads) -> dict[str, bool | None]:
        """Of dx, dw, db and y, whether they agree; None where there is nothing to compare."""
        results: dict[str, bool | None] = dict.fromkeys(RESULTS)
        for name, answer, reference, like in self._compared(got):
            results[name] = not any(
                _wrong_form("", name, array, like) or self.expected.wrong(name, array).any()
                for array in (answer, reference)
            )
        return results

    def errors(self, got: ConvGrads) -> dict[str, Array]:
        """|got - want| of the results of the right form that are not right, in float64."""
        return {
            name: as_doubles(self.expected.error(name, answer))
            for name, answer, _, like in self._compared(got)
            if not _wrong_form("", name, answer, like) and self.expected.wrong(name, answer).any()
        }

    def ratios(self, got: ConvGrads) -> dict[str, Array]:
        """Error / bound of the elements of each result that need not be equal."""
        ratios = ((name, self.expected.ratios(name, a)) for name, a, *_ in self._compared(got))
        return {name: of_each for name, of_each in ratios if of_each.size}

    def _compared(self, got: ConvGrads) -> Iterator[tuple[str, Array, Array, Array]]:
        """Name, answer, the reference's, and the array of equal form, of each result claimed."""
        problem = self.problem
        likes = {"dx": problem.x, "dw": problem.w, "db": problem.b, "y": problem.dy}
        for name, like in likes.items():
            answer, reference = getattr(got, name), getattr(self.reference, name)
            if answer is not None and reference is not None and like is not None:
                yield name, answer, reference, like


def _sentence(
    standard: _Standard, fault: Differs, evidence: Evidence, witnesses: Sequence[Connection]
) -> str:
    """The message of a verdict "differs"."""
    message = f"{fault}{evidence} [{describe(evidence.problem)}]"
    if (found := standard.first_wrong(fault.grads)) is not None:
        message = _court(standard, evidence, *found, fault.grads, witnesses)
    return message + _history(evidence)


def _history(evidence: Evidence) -> str:
    """What was asked before, and where the fault was seen first, if that is known; else ""."""
    words = ""
    if evidence.before:
        words += f"\nasked before it: [{describe(evidence.before[-1])}]"
    if evidence.seen_at is not None:
        words += f"\nfirst seen while it answered [{describe(evidence.seen_at)}]"
    return words


def _wrong_form(who: str, name: str, array: Array, like: Array) -> str:
    """How the shape or dtype of a result differs from that of the array it belongs to; else ""."""
    for what in ("shape", "dtype"):
        got, expected = getattr(array, what), getattr(like, what)
        if got != expected:
            return f"{who} {name}.{what} = {got}, but should be {expected}"
    return ""


def first(wrong: Array) -> tuple[int, ...] | None:
    """The first index at which `wrong` holds; None if it does nowhere."""
    if not wrong.any():
        return None
    return tuple(int(axis[0]) for axis in np.nonzero(wrong))


def reference_grads(problem: ConvProblem) -> ConvGrads:
    """The reference's dx, dw, db (None without a bias) and y for `problem`."""
    grads = conv_backward(problem.x, problem.w, problem.dy, problem.params)
    y = conv_forward(problem.x, problem.w, problem.b, problem.params)
    return ConvGrads(grads.dx, grads.dw, None if problem.b is None else grads.db, y)


def expected_of(problem: ConvProblem, domain: Domain) -> Expected:
    """What an answer must be of an oracle that has `domain`, and sums as that says."""
    dtype = problem.dtype.name
    return expect(
        problem,
        domain.accumulation.get(dtype),
        factors=domain.factors.get(dtype),
        conventional=domain.exact,
    )


def can_be_exact(problem: ConvProblem) -> bool:
    """Whether rational arithmetic has an answer in reasonable time."""
    return problem.dy.size <= EXACT_LIMIT


def exact_grads(problem: ConvProblem) -> ConvGrads:
    """The same in rational arithmetic, as object arrays; NaN and Inf as in the plain loops."""
    if not is_finite(problem):
        return with_special_values(exact_grads(finite_part(problem)), _loops(signs_of(problem)))
    x, w, dy = (as_rationals(array) for array in (problem.x, problem.w, problem.dy))
    b = None if problem.b is None else as_rationals(problem.b)
    return _loops(ConvProblem(x, w, b, dy, problem.params))


def _loops(problem: ConvProblem) -> ConvGrads:
    """The results as the definition has them."""
    x, w, b, params = problem.x, problem.w, problem.b, problem.params
    grads = naive_conv_backward(x, w, problem.dy, params)
    y = naive_conv_forward(x, w, b, params)
    return ConvGrads(grads.dx, grads.dw, None if b is None else grads.db, y)


def reproduction(verdict: Verdict) -> str:
    """A script, to be run from the project's root, that comes to `verdict` again."""
    evidence = verdict.shown_by
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
    standard: _Standard,
    evidence: Evidence,
    name: str,
    index: tuple[int, ...],
    got: ConvGrads,
    witnesses: Sequence[Connection],
) -> str:
    """Who is wrong at `name`[`index`]: the reference only if rational arithmetic says so."""
    problem, expected = standard.problem, standard.expected
    culprit, reference = standard.oracle.name, standard.reference
    answers = {culprit: got, "reference": reference}
    for witness in witnesses:
        if witness.name != culprit and witness.domain.accepts(problem):
            try:
                answers[witness.name] = witness.grads(problem)
            except OracleError:
                continue  # its own test names this
    if can_be_exact(problem):
        expected = replace(expected, want=exact_grads(problem))
        answers["exact"] = expected.want
        for result in ("y", name):  # a wrong forward spoils what is derived from it
            bad = expected.wrong(result, getattr(reference, result))
            bad |= expected.wrong(result, getattr(standard.expected.want, result))
            if (ours := first(bad)) is not None:
                culprit, name, index = "reference", result, ours
                break
    truth, allowed = getattr(expected.want, name), getattr(expected.allowed, name)[index]
    values = {
        who: getattr(answer, name)
        for who, answer in answers.items()
        if getattr(answer, name) is not None and getattr(answer, name).shape == truth.shape
    }
    wrong = {who: expected.wrong(name, value) for who, value in values.items()}
    agree = [who for who in values if not wrong[who][index]]
    error = as_doubles(expected.error(name, values[culprit]))[index]  # a Fraction has no format
    off = f"off by {error:.3g}, " if allowed else ""
    right = _number(as_doubles(truth)[index] if allowed else truth[index])
    if expected.is_infinite(name)[index]:
        right = f"{'-' * bool(truth[index] < 0)}inf, {right} being too large for {problem.dtype}"
    sentence = (
        f"{culprit} {name}[{', '.join(map(str, index))}] = {_number(values[culprit][index])}, "
        f"but should be {right} ({off}allowed {allowed:.3g}; "
        f"{int(wrong[culprit].sum())} of {truth.size} elements differ; "
        f"{', '.join(agree) or 'none'} agree){evidence} [{describe(problem)}]"
    )
    return sentence + _adjoint_identity(standard, name, answers[culprit])


def _adjoint_identity(standard: _Standard, name: str, answer: ConvGrads) -> str:
    """The adjoint identity that `answer` breaks, <dx, x> or <dw, w> = <dy, conv(x, w)>; else "".

    It says nothing new where results are rounded, and is worked out in rational arithmetic.
    """
    problem, allowed = standard.problem, getattr(standard.expected.allowed, name)
    finite = is_finite(problem) and np.isfinite(getattr(answer, name).astype(np.float64)).all()
    if name not in ("dx", "dw") or allowed.any() or not finite or not can_be_exact(problem):
        return ""
    x, w, dy = (as_rationals(array) for array in (problem.x, problem.w, problem.dy))
    other = {"dx": x, "dw": w}[name]
    left = np.sum(as_rationals(getattr(answer, name)) * other)
    right = np.sum(dy * naive_conv_forward(x, w, None, problem.params))
    if left == right:
        return ""
    return f"\n<{name}, {name[1]}> = {_number(left)}, but <dy, conv(x, w)> = {_number(right)}"


def _number(value: Any) -> str:
    if isinstance(value, (int, Fraction)):
        return str(value)
    return f"{float(value):.17g}"
