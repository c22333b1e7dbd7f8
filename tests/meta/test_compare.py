"""The judge is judged: what counts as a difference, what a message crosses, who stands trial."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import compare
from oracles.compare import first, judge
from oracles.compare import reference_grads as right_grads
from oracles.protocol import Box, Domain, Malformed, Oracle
from oracles.registry import connect, entries, find
from oracles.wire import Inbox, decode_grads, decode_problem, encode_grads, encode_problem, frame
from oracles.worker import InProcess
from reference import ConvGrads, ConvParams, ConvProblem
from reference.rounding import FORMATS, Expected
from tests.support import zoo

ZEROS = np.zeros((2, 3), np.float32)


def changed(index: tuple[int, int], value: float) -> np.ndarray:
    """Zeros but for one element."""
    array = ZEROS.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("got", "difference"),
    [
        (ZEROS, None),
        (-ZEROS, None),  # -0.0 equals 0.0
        (changed((1, 2), 1e-45), (1, 2)),  # the smallest subnormal is not zero
        (changed((1, 0), np.nan), (1, 0)),
        (changed((0, 1), np.inf), (0, 1)),
    ],
)
def test_first_difference(got: np.ndarray, difference: object) -> None:
    """Without any tolerance where nothing is allowed."""
    zeros = ConvGrads(ZEROS.astype(np.float64), ZEROS, None)
    assert first(Expected(zeros, zeros, one_tap()).wrong("dx", got)) == difference


def one_tap(**changes: object) -> ConvProblem:
    """A problem of one element each."""
    one = np.ones((1, 1, 1), np.float32)
    return ConvProblem(
        **{"x": 2 * one, "w": 3 * one, "b": None, "dy": 5 * one, **changes},
        params=ConvParams((1,), ((0, 0),), (1,)),
    )


def test_the_message_tells_who_where_and_by_how_much() -> None:
    """One grammar; the adjoint identity that is broken needs no reference at all."""
    wrong = zoo.Bad(lambda p: ConvGrads(np.full_like(p.x, 7), p.dy * p.x, None, p.x * p.w))
    verdict = judge(named(wrong), one_tap(), witnesses=[connect(find("numerical"))])
    assert verdict.message == (
        "mine dx[0, 0, 0] = 7, but should be 15 (allowed 0; 1 of 1 elements differ; "
        "reference, numerical, exact agree) [1-D float32, x (1, 1, 1), w (1, 1, 1), no bias, "
        "stride (1,), padding ((0, 0),), dilation (1,), groups 1]\n"
        "<dx, x> = 14, but <dy, conv(x, w)> = 30"
    )
    assert verdict.results == {"dx": False, "dw": True, "db": None, "y": True}


def test_the_message_tells_what_rounding_would_allow() -> None:
    """Where results are rounded it says by how much the answer is off, and how much may be."""
    problem = one_tap(x=np.float32([[[0.1]]]))
    wrong = zoo.Bad(lambda p: replace(right_grads(p), y=p.x))
    sentence = judge(named(wrong), problem).message
    assert sentence.startswith("mine y[0, 0, 0] = 0.10000000149011612, but should be ")
    assert (
        "(off by 0.2, allowed 1.79e-08; 1 of 1 elements differ; reference, exact agree)" in sentence
    )


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("result", "factors"), [("dx", "dy w"), ("dw", "x dy"), ("db", "dy"), ("y", "x w")]
)
def test_what_is_too_large_is_infinite(result: str, factors: str, dtype: str) -> None:
    """The reference and the numerical gradients say so; whoever stays at the largest is wrong."""
    stored = FORMATS[dtype]
    size = 1.5 * 2.0 ** (stored.maxexp // 2) if " " in factors else stored.largest
    shapes = {"x": (1, 2, 1), "w": (1, 1, 1), "b": (1,), "dy": (1, 2, 1)}
    arrays = {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    for sign, name in zip((-1, 1), factors.split()):
        arrays[name][...] = sign * size
    problem = ConvProblem(**arrays, params=ConvParams((1,), ((0, 0),), (1,)))
    assert judge(connect(find("numerical"), in_process=True), problem).kind == "agrees"
    assert np.isneginf(getattr(right_grads(problem), result).astype(np.float64)).all()

    def at_most(problem: ConvProblem) -> ConvGrads:
        right = right_grads(problem)
        finite = np.full_like(getattr(right, result), -stored.largest)
        return replace(right, **{result: finite})

    message = judge(named(zoo.Bad(at_most)), problem).message
    if dtype == "float64":  # in which S is too large to say by how much anybody is off
        assert not message
        return
    assert re.match(rf"mine {result}\[0.*\] = -[\d.e+]+, but should be -inf, -", message)
    assert f" being too large for {dtype} (off by " in message
    assert "reference, exact agree" in message


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda p: wrong_reference(p, dx=p.x.astype(np.float64)),
            "reference dx.dtype = float64",
        ),
        (lambda p: wrong_reference(p, dx=p.x[..., None]), "reference dx.shape = (1, 1, 1, 1), but"),
        (lambda p: wrong_reference(p, y=p.dy), "reference y[0, 0, 0] = 5, but should be 6"),
        (lambda p: p.x.fail, "reference raises AttributeError: "),
    ],
)
def test_the_reference_stands_trial_too(
    wrong: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong in form, in y only, or not answering: the reference is named, not the oracle."""
    monkeypatch.setattr(compare, "reference_grads", wrong)
    off_by_one = zoo.Bad(lambda p: replace(right_grads(p), dw=right_grads(p).dw + 1))
    assert judge(named(off_by_one), one_tap()).message.startswith(words)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither the oracle starts nor the reference answers, the verdict is the oracle's."""
    monkeypatch.setattr(compare, "reference_grads", lambda p: p.x.fail)
    with contextlib.closing(connect(find("tests.support.zoo:exits_during_import"))) as oracle:
        verdict = judge(oracle, one_tap())
    assert verdict.kind == "does not start"
    assert verdict.message.startswith("tests.support.zoo:exits_during_import does not start")


def wrong_reference(problem: ConvProblem, **changes: object) -> ConvGrads:
    """The right gradients but for what is changed."""
    return replace(right_grads(problem), **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "w", "dy"])
def test_special_values_are_held_against_the_rule(name: str, value: float) -> None:
    """Nothing is allowed but the very value; plain loops judge between oracle and reference."""
    problem = one_tap(**{name: np.float32([[[value]]])})
    assert judge(named(zoo.right), problem).kind == "agrees"
    result = {"x": "dw", "w": "dx", "dy": "dx"}[name]
    for wrong in (0, np.nan, np.inf, -np.inf):
        if not np.array_equal(wrong, value, equal_nan=True):
            spoilt = zoo.Bad(
                lambda p, wrong=wrong: wrong_reference(p, **{result: np.full_like(p.x, wrong)})
            )
            assert judge(named(spoilt), problem).message.startswith(
                f"mine {result}[0, 0, 0] = {wrong}, but should be {value} (allowed 0; 1 of 1 "
                "elements differ; reference, exact agree) ["
            )


def test_what_no_special_value_reaches_is_as_always() -> None:
    """Its bound is that of the finite numbers, which no NaN makes wider or does away with."""
    x = np.float32([[[0.1], [np.inf]]])
    one = np.float32([[[0.3]]])
    problem = ConvProblem(x, one, None, np.float32([[[0.7], [0]]]), one_tap().params)
    assert judge(named(zoo.right), problem).kind == "agrees"
    factor = np.float32([[1.001], [1]])
    off = zoo.Bad(lambda p: replace(right_grads(p), y=right_grads(p).y * factor))
    message = judge(named(off), problem).message
    assert message.startswith("mine y[0, 0, 0] = 0.03")
    assert "(off by 3e-05, allowed 1.79e-09; 1 of 2 elements differ; reference, exact" in message
    assert judge(named(off), replace(problem, x=np.float32([[[0], [1]]]))).kind == "agrees"


def test_a_reference_that_breaks_the_rule_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be for a wrong number."""
    monkeypatch.setattr(compare, "reference_grads", zoo.swallows_nan.grads)
    problem = one_tap(dy=np.float32([[[np.nan]]]))
    message = judge(named(zoo.plain_loops), problem).message
    assert message.startswith("reference dw[0, 0, 0] = 0, but should be nan (allowed 0; ")
    assert "; mine, exact agree) [" in message


def test_a_missing_db_is_malformed() -> None:
    """A problem with a bias asks for db; one without does not."""
    lazy = zoo.Bad(lambda p: ConvGrads(p.dy * p.w, p.dy * p.x, None))
    assert judge(named(lazy), one_tap()).kind == "agrees"
    verdict = judge(named(lazy), one_tap(b=np.ones(1, np.float32)))
    assert verdict.kind == "malformed"
    assert "db a NoneType" in verdict.message


def named(oracle: Oracle) -> InProcess:
    """An oracle object in this process, called "mine"."""
    return InProcess("mine", oracle)


def test_problems_survive_the_wire() -> None:
    """Every array and parameter arrives, none shared, with no bias as no bias."""
    for b in (None, np.float64([1, 2])):
        problem = ConvProblem(
            np.arange(6.0).reshape(1, 3, 2),
            np.ones((2, 1, 2)),
            b,
            np.zeros((1, 3, 2)),
            ConvParams((1,), ((0, 1),), (1,), 2),
        )
        inbox = Inbox(1 << 20)
        data = encode_problem(problem)
        for start in range(0, len(data), 7):  # in pieces
            assert inbox.message() is None
            inbox.feed(data[start : start + 7])
        again = decode_problem(*inbox.message())
        assert again.params == problem.params
        assert (again.b is None) == (b is None)
        for name in ("x", "w", "dy"):
            assert np.array_equal(getattr(again, name), getattr(problem, name))
        again.x[...] = 9
        assert problem.x[0, 0, 0] == 0


def answer(arrays: object, body: bytes = b"") -> bytes:
    """A message that claims to hold these arrays."""
    return frame({"status": "answered", "arrays": arrays}, body)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff" * 64, "bytes, of at most"),
        (b"\0\0\0\4" + b"\0" * 8 + b"oops", "a header that is not JSON"),
        (struct.pack(">IQ", 100_000, 0) + b"[" * 100_000, "a header that is not JSON"),
        (frame([1]), "a header that is a list"),  # type: ignore[arg-type]
        (frame({"status": "answered"}), "arrays that cannot be read"),
        (answer([["dx", "|O8", [1]]], b"\0" * 8), "dx has dtype '|O8'"),
        (answer([["dx", "<f4", [-1]]]), "dx has dtype '<f4' and shape [-1]"),
        (answer([["dx", "<f4", [1 << 60]]]), "arrays that cannot be read"),
        (answer([["dx", "<f4", "ab"]]), "arrays that cannot be read"),
        (answer([["dx", "<f4", [1]]], b"\0" * 4), r"the arrays ['dx'], not with dx, dw, db, y"),
        (answer([["dx", "<f4", [1]], ["dw", "<f4", [1]]], b"\0" * 9), "9 bytes where its arrays"),
        (answer([["dx", "<f4", [0]], [1, "<f4", [0]]]), "the arrays ['1', 'dx'], not with"),
        (answer([["dx", "<f4", [0]], ["dw", "<f4", [0]], ["e", "<f4", [0]]]), "the arrays ['dw'"),
    ],
)
def test_garbage_is_malformed(data: bytes, words: str) -> None:
    """What is no answer is named; nothing of it is executed or believed."""
    inbox = Inbox(limit=1 << 20)
    inbox.feed(data)
    with pytest.raises(Malformed) as caught:
        decode_grads(*inbox.message())
    assert words in str(caught.value)


_NAMES = st.sampled_from(["dx", "dw", "e", 1, None, ["dx"]])
_DTYPES = st.sampled_from(["<f4", "<f8", "bfloat16", "O", "<f3", "<c9", "<M8", 4, None, ["<f4"]])
_SIZES = st.sampled_from([0, 1, 2, -1, 10**30, 2**63, 0.5, True, "2", None, [1]])
_ARRAYS = st.tuples(_NAMES, _DTYPES, st.lists(_SIZES, max_size=3)) | st.tuples(_NAMES)


@given(arrays=st.lists(_ARRAYS, max_size=3), body=st.binary(max_size=40))
def test_any_answer_is_read_or_malformed(arrays: object, body: bytes) -> None:
    """Names, dtypes and shapes that are none, too many bytes or too few."""
    inbox = Inbox(limit=1 << 20)
    inbox.feed(answer(arrays, body))
    with contextlib.suppress(Malformed):
        assert isinstance(decode_grads(*inbox.message()), ConvGrads)


def test_half_a_message_is_none() -> None:
    """A message counts when it is whole."""
    data = encode_grads(ConvGrads(ZEROS, ZEROS, None))
    inbox = Inbox(limit=1 << 20)
    inbox.feed(data[:-1])
    assert inbox.message() is None
    inbox.feed(data[-1:])
    grads = decode_grads(*inbox.message())
    assert grads.db is None
    assert np.array_equal(grads.dx, ZEROS)


def test_messages_are_not_pickle() -> None:
    """The header can be read with nothing but JSON."""
    data = encode_grads(ConvGrads(ZEROS, ZEROS, None))
    header = json.loads(data[12 : 12 + int.from_bytes(data[:4], "big")])
    assert header["arrays"] == [["dx", "<f4", [2, 3]], ["dw", "<f4", [2, 3]]]


def test_every_oracle_in_the_tree_is_one() -> None:
    """The three names, a domain with cells, and an install line where there is a distribution."""
    names = [entry.name for entry in entries()]
    assert names == sorted(names)
    assert {"numerical", "pytorch", "tensorflow"} <= set(names)
    for entry in entries():
        assert isinstance(entry.oracle, Oracle)
        assert entry.oracle.domain.cells()
        assert entry.ours == (entry.oracle.distribution is None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Box(ranks=(4,), dtypes=("float32",)), "ranks=(4,): must be a tuple of some of"),
        (lambda: Box(ranks=(), dtypes=("float32",)), "ranks=(): must be a tuple of some of"),
        (lambda: Box(ranks=(1,), dtypes="float32"), "dtypes='float32': must be a tuple of some"),
        (lambda: Box((1,), ("float8",)), "dtypes=('float8',): must be a tuple of some of"),
        (lambda: Box((1,), ("float32",), groups=("two",)), "groups=('two',): must be a tuple"),
        (lambda: Box((1,), ("float32",), stride="two"), "stride='two': must be one of"),
        (lambda: Box((1,), ("float32",), max_elements=0), "max_elements=0: must be None or at"),
    ],
)
def test_a_malformed_box(make: object, words: str) -> None:
    """A domain that says nothing sensible is refused where it is written."""
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_domain_needs_a_box() -> None:
    """An empty domain accepts nothing, so it is a mistake."""
    with pytest.raises(TypeError, match="must be given one Box or more"):
        Domain()


def test_a_refusal_names_what_does_not_fit() -> None:
    """Of boxes with the problem's rank and dtype, each says what it will not take."""
    domain = Domain(
        Box(ranks=(1,), dtypes=("float32",), stride="one"),
        Box(ranks=(1,), dtypes=("float32",), padding="zero"),
        Box(ranks=(2,), dtypes=("float32",)),
    )
    x, w, dy = np.zeros((1, 3, 1)), np.zeros((1, 1, 1)), np.zeros((1, 3, 1))
    params = ConvParams((2,), ((1, 1),), (1,))
    problem = ConvProblem(
        *(a.astype(np.float32) for a in (x, w)), None, dy.astype(np.float32), params
    )
    assert domain.refusal(problem) == (
        "stride=(2,) (must be one); padding=((1, 1),) (must be zero)"
    )
    assert not domain.accepts(problem)
