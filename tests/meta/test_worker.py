"""Nothing an oracle does can end the run: each bad citizen gets a verdict that names its fault."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from oracles import jax as jax_oracle
from oracles.compare import Disagreement, Question, Verdict, judge
from oracles.protocol import Box, Domain, Hung, NotStarted, Raised
from oracles.registry import connect, find, variants
from oracles.worker import Worker
from reference import ConvGrads, ConvParams, ConvProblem
from tests.support import zoo
from tests.support.strategies import problems

PROBLEM = ConvProblem(
    x=np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2),
    w=np.ones((1, 1, 2, 1), np.float32),
    b=np.zeros(1, np.float32),
    dy=np.ones((1, 2, 2, 1), np.float32),
    params=ConvParams(),
)
VERDICTS = {
    "right": ("agrees", ""),
    "leaves_a_daemon": ("agrees", ""),
    "slow_start": ("agrees", ""),
    "wrong_every_second_time": ("differs", r"elements differ; .*\), when asked 2 times in one pro"),
    "exits_during_import": ("does not start", "does not start: .* exits with code 3; it wrote"),
    "segfaults": ("crashes", r"crashes with SIGSEGV, again in fresh process 1 of 3 \[2-D float32"),
    "aborts": ("crashes", "crashes with SIGABRT, again"),
    "divides_by_zero": ("crashes", "crashes with SIGFPE, again"),
    "exits": ("crashes", "exits with code 0, again"),
    "raises": ("raises", r"raises NotImplementedError: no kernel for this \["),
    "calls_sys_exit": ("raises", "raises SystemExit: enough"),
    "hangs": ("hangs", "hangs: no answer within 0.5 s, again in fresh process 1 of 1"),
    "trickles": ("hangs", "hangs: no answer within 0.5 s, again in fresh process 1 of 1"),
    "has_no_accelerator": (
        "does not start",
        "RuntimeError: there is no accelerator",
    ),
    "maps_all_memory": ("agrees", ""),
    "eats_memory": ("raises", "MemoryError: Unable to allocate 256. MiB"),
    "forks_a_child_that_stays": ("crashes", "crashes with SIGKILL, again"),
    "answers_a_list": ("malformed", "answers with dx a list, not a NumPy array"),
    "answers_none": ("malformed", "answers with a NoneType, not with a ConvGrads"),
    "answers_objects": ("malformed", "answers with dx of dtype object, which is no plain number"),
    "answers_float64": ("differs", r"dx\.dtype = float64, but should be float32"),
    "answers_another_shape": ("differs", r"db\.shape = \(1, 1\), but should be \(1,\)"),
    "answers_nan": ("differs", r"dw\[0, 0, 0, 0\] = nan, but should be 12 .*2 of 2 elements"),
    "answers_inf": ("differs", r"db\[0\] = inf, but should be 4 .*1 of 1 elements"),
    "changes_its_answer_later": ("malformed", "changes dx of the answer that it gave before"),
    "writes_to_its_inputs": ("malformed", "writes to its input x"),
    "writes_past_its_input": ("malformed", "writes beyond the end of its input dy"),
    "reads_past_its_input": ("differs", r"dx\[0, 0, 0, 0\] = nan, but should be 1"),
    "chatters": ("agrees", ""),
    "prints_without_end": ("malformed", "writes more than 64 MiB to stdout and stderr"),
    "closes_its_channel": ("crashes", "closes its channel without an answer, again"),
    "sends_garbage": ("malformed", "answers with 4294967295 .* bytes, of at most"),
    "sends_half_a_message": ("crashes", r"exits with code 0 after \d+ bytes of an answer, again"),
    "answers_another_question": ("malformed", "answers question 7 when asked 1"),
}
SHOWN_LATER = ("wrong_every_second_time", "changes_its_answer_later")  # when asked again


@pytest.fixture
def start() -> Iterator[object]:
    """Makes workers for members of the zoo, and ends them after the test."""
    workers = []

    def make(name: str, time_limit: float = 20, python: str = sys.executable) -> Worker:
        entry = replace(find(f"tests.support.zoo:{name}"), python=python)
        worker = connect(entry, time_limit=time_limit)
        assert isinstance(worker, Worker)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("ahead", [False, True], ids=["at once", "ahead"])
@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str, ahead: bool, start) -> None:
    """The fault is named, by oracle and problem; a right oracle that chatters is right."""
    worker = start(name, time_limit=0.5 if VERDICTS[name][0] == "hangs" else 20)

    def verdict_on(problem: ConvProblem) -> Verdict:
        question = Question(worker, problem)
        if ahead:
            question.begin()
        return question.verdict()

    verdict = verdict_on(PROBLEM)
    if name in SHOWN_LATER:
        assert verdict.kind == "agrees"
        verdict = verdict_on(PROBLEM)
    kind, words = VERDICTS[name]
    assert verdict.kind == kind
    if words:
        assert verdict.message.startswith(f"tests.support.zoo:{name} ")
        assert re.search(words, verdict.message)
        assert verdict.message.splitlines()[0].endswith("]")


def test_the_dead_process_is_heard(start) -> None:
    """What the oracle wrote before it died is part of the verdict."""
    log = judge(start("segfaults"), PROBLEM).log
    assert "about to read address zero" in log
    assert "Segmentation fault" in log


def shrunk(worker: Worker) -> ConvProblem:
    """The smallest problem that Hypothesis finds not to be answered rightly."""

    @settings(database=None, derandomize=True, deadline=None)
    @given(problem=problems(worker.domain, 2, "float32"))
    def agrees(problem: ConvProblem) -> None:
        judge(worker, problem).check()

    with pytest.raises(Disagreement) as caught:
        agrees()
    return caught.value.verdict.problem


def test_a_crash_is_shrunk_and_the_next_problem_answered(start) -> None:
    """Hypothesis shrinks a crash like any failure, and the worker goes on after it."""
    worker = start("segfaults_on_stride_2")
    problem = shrunk(worker)
    assert problem.params == ConvParams(stride=(2, 1))
    assert problem.x.size == problem.w.size == problem.dy.size == 1
    assert judge(worker, PROBLEM).kind == "agrees"


def test_a_crash_that_does_not_repeat_is_an_incident(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The problem is asked again, the answer counts, and the crash is kept for the report."""
    once = tmp_path / "once"
    once.touch()
    monkeypatch.setenv("ONCE", str(once))
    worker = start("segfaults_once")
    assert judge(worker, PROBLEM).kind == "agrees"
    [incident] = worker.incidents
    assert incident.words == "crashes with SIGSEGV; not again in fresh processes"
    assert incident.problem is PROBLEM


def test_an_answer_that_is_wrong_once_is_an_incident(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference counts if a new process gives it too; else it is kept for the report."""
    once = tmp_path / "once"
    monkeypatch.setenv("ONCE", str(once))
    worker = start("wrong_once")
    assert judge(worker, PROBLEM).kind == "agrees"
    once.touch()
    assert judge(worker, PROBLEM).kind == "agrees"
    [incident] = worker.incidents
    assert incident.words.endswith("dx[0, 0, 0, 0] = 2; not again in fresh processes")
    assert incident.problem is PROBLEM
    assert incident.before == (PROBLEM,)


def test_a_difference_is_the_same_in_a_new_process(start) -> None:
    """An oracle that is always wrong is always said to be."""
    worker = start("answers_nan")
    assert [judge(worker, PROBLEM).kind for _ in range(3)] == ["differs"] * 3
    assert worker.incidents == []


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("crashes_50_problems_later", "crashes", "crashes with SIGSEGV, when asked 51 times in"),
        ("answers_from_a_stale_cache", "differs", "after 1 other problem in the same process"),
        ("answers_the_problem_before", "differs", "after 1 other problem in the same process"),
    ],
)
def test_the_guilty_problem_is_found(name: str, kind: str, words: str, start) -> None:
    """Not the innocent one at which it shows: the one that did it, made as small as it goes."""
    worker = start(name)
    innocent = drawn(Domain(Box((2,), ("float32",), stride="one")), 80)
    guilty = replace(PROBLEM, dy=PROBLEM.dy[:, :1, :1], params=ConvParams(stride=(2, 2)))
    again = replace(guilty, dy=2 * guilty.dy)  # of the same shapes
    verdict = first_failure(worker, [*innocent[:20], guilty, *innocent[20:], again])
    assert verdict.kind == kind
    assert re.search(words, verdict.message)
    problems_shown = [verdict.problem, *verdict.evidence.before]
    if name == "crashes_50_problems_later":
        assert [problem.params.stride for problem in problems_shown] == [(2, 1)]
        assert "\nfirst seen while it answered [2-D float32, x " in verdict.message
    else:
        assert len(problems_shown) == 2
        assert "\nasked before it: [2-D float32, x " in verdict.message
    for problem in problems_shown:
        assert max(problem.x.size, problem.w.size, problem.dy.size) <= 8
    assert worker.incidents == []


@pytest.mark.parametrize("name", ["raises_ever_after", "wrong_ever_after"])
def test_what_a_fault_leaves_behind_is_not_blamed_on_others(name: str, start) -> None:
    """A process that a fault has spoilt is not asked for smaller problems."""
    worker = start(name)
    problem = shrunk(worker)
    assert problem.params == ConvParams(dilation=(2, 1))
    assert problem.x.size == problem.w.size == problem.dy.size == 1
    outside = replace(PROBLEM, dy=PROBLEM.dy[:, :, :1], params=ConvParams(stride=(1, 2)))
    assert judge(worker, outside).kind == "agrees"
    assert worker.incidents == []


def test_a_refusal_that_spoils_the_process_is_one(start) -> None:
    """Outside the domain an error that lasts is blamed on nobody else either."""
    worker = start("raises_ever_after")
    worker._may_ask = lambda problem: problem.params.dilation == (1, 1)
    dilated = replace(PROBLEM, params=ConvParams(dilation=(2, 1)))
    kinds = [judge(worker, problem).kind for problem in (PROBLEM, dilated, PROBLEM)]
    assert kinds == ["agrees", "raises", "agrees"]


def test_a_fault_that_needs_hundreds_of_problems_is_an_incident(start) -> None:
    """It was made to show again, but no problem can be blamed: all is kept, the run goes on."""
    worker = start("crashes_at_problem_700")
    assert all(judge(worker, PROBLEM).kind == "agrees" for _ in range(702))
    [incident] = worker.incidents
    words = re.fullmatch(
        r"crashes with SIGSEGV; again only after (\d+) other problems", incident.words
    )
    assert words is not None
    assert 480 <= int(words[1]) <= 520
    assert len(incident.before) == 699


def test_two_faults_are_told_apart(start) -> None:
    """What is plainly wrong is not blamed for a crash that comes later."""
    worker = start("two_faults")
    innocent = drawn(Domain(Box((2,), ("float32",), stride="one", dilation="one")), 80)
    dilated = replace(PROBLEM, params=ConvParams(dilation=(2, 1)))
    strided = replace(PROBLEM, dy=PROBLEM.dy[:, :1, :1], params=ConvParams(stride=(2, 2)))
    asked = [*innocent[:5], dilated, *innocent[5:20], strided, *innocent[20:]]
    verdicts = [judge(worker, problem) for problem in asked]
    bad = {number: v for number, v in enumerate(verdicts) if v.kind != "agrees"}
    assert {number: verdict.kind for number, verdict in bad.items()} == {
        5: "differs",
        71: "crashes",
    }
    assert bad[5].problem is dilated
    assert bad[71].problem.params.stride == (2, 1)
    assert judge(worker, asked[71]).message == bad[71].message
    assert worker.incidents == []


def test_it_computes_ahead(start) -> None:
    """Between `begin` and the answer there is time for something else."""
    worker = start("takes_a_while")
    judge(worker, PROBLEM)
    question = Question(worker, PROBLEM)
    begin = time.perf_counter()
    question.begin()
    time.sleep(zoo.A_WHILE)
    assert question.verdict().kind == "agrees"
    assert time.perf_counter() - begin < 1.8 * zoo.A_WHILE


def test_another_problem_than_was_begun(start) -> None:
    """The answer to what was begun is not taken for another's."""
    worker = start("right")
    other = replace(PROBLEM, dy=2 * PROBLEM.dy)
    worker.begin(other)
    assert np.array_equal(worker.grads(PROBLEM).db, PROBLEM.dy.sum((0, 1, 2)))
    worker.begin(other)
    worker.renew()
    assert np.array_equal(worker.grads(other).db, 2 * PROBLEM.dy.sum((0, 1, 2)))
    assert worker.incidents == []


def scaled(factor: int, cells: int = 2) -> ConvProblem:
    """A problem whose db says which it is."""
    x = np.ones((1, cells, cells, 2), np.float32)
    return replace(PROBLEM, x=x, dy=factor * np.ones((1, cells, cells, 1), np.float32))


def test_the_child_need_not_wait(start) -> None:
    """A second problem that was begun is computed while nobody has asked for the first's answer."""
    worker = start("takes_a_while")
    judge(worker, PROBLEM)
    questions = [Question(worker, scaled(factor)) for factor in (1, 2)]
    for question in questions:
        question.begin()
    time.sleep(2.2 * zoo.A_WHILE)
    begin = time.perf_counter()
    assert [question.verdict().kind for question in questions] == ["agrees", "agrees"]
    assert time.perf_counter() - begin < 0.5 * zoo.A_WHILE


def test_a_large_one_is_sent_after_the_answer(start) -> None:
    """And is computed before its own is asked for."""
    worker = start("takes_a_while")
    judge(worker, PROBLEM)
    first, second = Question(worker, PROBLEM), Question(worker, scaled(1, 200))
    first.begin()
    second.begin()
    assert first.verdict().kind == "agrees"
    time.sleep(1.2 * zoo.A_WHILE)
    begin = time.perf_counter()
    assert second.verdict().kind == "agrees"
    assert time.perf_counter() - begin < 0.5 * zoo.A_WHILE


@pytest.mark.parametrize("large", [(), (0,), (1,), (2, 3), range(6)], ids=str)
def test_each_gets_its_own_answer(large: Sequence[int], start) -> None:
    """In the order in which they were begun, of one child, also of those that are sent later.

    Large ones, and their answers, do not go into a socket whole.
    """
    worker = start("right")
    worker.grads(PROBLEM)
    child = worker._process._child
    asked = [scaled(factor, 700 if factor in large else 3) for factor in range(6)]
    worker.begin(asked[0])
    for problem, following in pairwise([*asked, None]):
        if following is not None:
            worker.begin(following)
        assert np.array_equal(worker.grads(problem).dx[..., 0], problem.dy[..., 0])
    assert worker._process._child == child
    assert worker.incidents == []


@pytest.mark.parametrize("guilty", [0, 1])
def test_who_of_two_is_guilty(guilty: int, start) -> None:
    """The one that the child dies of; the other is answered, by another child if need be."""
    worker = start("segfaults_on_stride_2")
    judge(worker, PROBLEM)
    kills = replace(PROBLEM, dy=PROBLEM.dy[:, :1, :1], params=ConvParams(stride=(2, 2)))
    asked = [kills, PROBLEM] if guilty == 0 else [PROBLEM, kills]
    questions = [Question(worker, problem) for problem in asked]
    for question in questions:
        question.begin()
    verdicts = [question.verdict() for question in questions]
    assert [verdict.kind for verdict in verdicts].index("crashes") == guilty
    assert verdicts[1 - guilty].kind == "agrees"
    assert verdicts[guilty].shown_by.problem is kills
    assert worker.incidents == []


def test_what_cannot_be_sent(start) -> None:
    """Is said of the problem that it is, not of the one before."""
    worker = start("right")
    kept = PROBLEM.dtype
    objects = replace(
        PROBLEM, **{n: getattr(PROBLEM, n).astype(object) for n in ["x", "w", "b", "dy"]}
    )
    for problem in (PROBLEM, objects, PROBLEM):
        worker.begin(problem)
    assert worker.grads(PROBLEM).dx.dtype == kept
    with pytest.raises(Raised, match="refuses dtype object"):
        worker.grads(objects)
    assert worker.grads(PROBLEM).dx.dtype == kept


def test_both_are_written_down() -> None:
    """What may be the last that is asked: one, and the one that it was sent behind."""
    written: list[tuple[bytes, bool]] = []
    entry = find("tests.support.zoo:right")
    worker = connect(entry, asked=lambda message, behind: written.append((message, behind)))
    assert isinstance(worker, Worker)
    try:
        asked = [scaled(factor) for factor in (1, 2, 3)]
        for problem in asked[:2]:
            worker.begin(problem)
        for problem in asked:
            worker.grads(problem)
    finally:
        worker.close()
    assert [behind for _, behind in written] == [False, True, False]


def first_failure(worker: Worker, asked: list[ConvProblem]) -> Verdict:
    """The verdict on the first of the problems that is not answered rightly."""
    verdicts = (judge(worker, problem) for problem in asked)
    return next(verdict for verdict in verdicts if verdict.kind != "agrees")


def drawn(domain: Domain, count: int) -> list[ConvProblem]:
    """Random problems of `domain`."""
    found: list[ConvProblem] = []
    rank, dtype = domain.cells()[0]
    few = settings(max_examples=count, database=None, derandomize=True, phases=[Phase.generate])
    few(given(problem=problems(domain, rank, dtype))(lambda problem: found.append(problem)))()
    return found


def test_a_fault_once_found_is_the_same_when_asked_again(start) -> None:
    """Hypothesis asks again for what failed, and must be told the same; `calm` forgets it."""
    worker = start("answers_the_problem_before")
    asked = [PROBLEM, replace(PROBLEM, dy=2 * PROBLEM.dy)]
    first = first_failure(worker, asked)
    assert judge(worker, asked[1]).message == first.message
    worker.calm()
    worker.renew()
    assert judge(worker, asked[1]).kind == "agrees"


@pytest.mark.parametrize("victim", ["child", "zygote", "both"])
def test_killed_from_outside(victim: str, start) -> None:
    """Whichever process is killed between two problems, the next is answered, and it is said."""
    worker = start("right")
    assert judge(worker, PROBLEM).kind == "agrees"
    pids = {"child": [worker._process._child], "zygote": [worker._process._zygote.pid]}
    for pid in pids.get(victim, pids["child"] + pids["zygote"]):
        os.kill(pid, signal.SIGSEGV)
    time.sleep(0.2)
    assert judge(worker, PROBLEM).kind == "agrees"
    assert any("SIGSEGV" in incident.words for incident in worker.incidents)


def test_a_zygote_that_is_stopped_is_no_fault_of_the_problem(
    start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is started, the problem is answered, and it is said."""
    monkeypatch.setattr("oracles.process.FORK_LIMIT", 0.5)
    worker = start("right")
    assert judge(worker, PROBLEM).kind == "agrees"
    os.kill(worker._process._zygote.pid, signal.SIGSTOP)
    os.kill(worker._process._child, signal.SIGKILL)
    assert judge(worker, PROBLEM).kind == "agrees"
    assert "loses its zygote, which hangs" in [incident.words for incident in worker.incidents]


def test_what_pytest_can_import_the_process_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle that only this interpreter's sys.path finds answers from its own process."""
    (tmp_path / "only_here.py").write_text("from tests.support.zoo import right\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = connect(find("only_here:right"))
    try:
        assert judge(worker, PROBLEM).kind == "agrees"
    finally:
        worker.close()


def test_an_import_that_fails_is_named(start) -> None:
    """An oracle whose process cannot be started says so, each time it is asked."""
    worker = start("right", python="/bin/false")
    for _ in range(2):
        with pytest.raises(NotStarted, match=r"does not start: .* exits with code 1"):
            worker.grads(PROBLEM)


@pytest.mark.parametrize(
    ("name", "python", "words"),
    [
        ("exits_during_import", sys.executable, r"its zygote, which exits with code 3; it wrote"),
        ("has_no_accelerator", sys.executable, "RuntimeError: "),
        ("right", "/bin/false", "its zygote, which exits with code 1; it wrote"),
    ],
)
def test_an_import_that_fails_before_it_is_asked(
    name: str, python: str, words: str, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same verdict, of one import; what it came to is not said a second time."""
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **more: started.append(args) or popen(*args, **more)
    )
    worker = start(name, python=python)
    worker.start()
    worker._process._zygote.wait(timeout=60)
    for _ in range(2):
        with pytest.raises(NotStarted, match=f"does not start: .*{words}"):
            worker.grads(PROBLEM)
    assert (len(started), worker.incidents) == (1, [])


def test_another_interpreter() -> None:
    """NAME@python runs under that interpreter, with the version that is installed there."""
    entry = find(f"numerical@{sys.executable}")
    worker = connect(entry)
    assert isinstance(worker, Worker)
    try:
        assert judge(worker, PROBLEM).kind == "agrees"
    finally:
        worker.close()
    assert find(f"pytorch@{sys.executable}").version == find("pytorch").version
    assert find(f"pytorch@{sys.executable}").base == "pytorch"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch@no/python", "oracle 'pytorch@no/python': no/python is no interpreter"),
        ("pytorch@/bin/false", "/bin/false must be Python 3.11 or newer with NumPy"),
        ("pytroch@python", "did you mean 'pytorch'?"),
    ],
)
def test_another_interpreter_that_is_none(name: str, words: str) -> None:
    """What cannot be run is an error before anything is asked."""
    with pytest.raises(ValueError, match=re.escape(words)):
        find(name)


def test_environment(tmp_path: Path) -> None:
    """NAME[KEY=VALUE] sets a variable in the oracle's process; another oracle has its own."""
    once = tmp_path / "once"
    once.touch()
    workers = [connect(find(f"tests.support.zoo:wrong_once[ONCE={path}]")) for path in (once, "no")]
    try:
        assert [judge(worker, PROBLEM).kind for worker in workers] == ["differs", "agrees"]
    finally:
        for worker in workers:
            worker.close()
    assert not once.exists()


def test_names() -> None:
    """A variant brings its environment, what is given overrides it; the base is what remains."""
    entry = find("tensorflow:native")
    assert (entry.base, entry.environment) == ("tensorflow:native", {"TF_ENABLE_ONEDNN_OPTS": "0"})
    assert entry.version == find("tensorflow").version
    other = find(f"tensorflow:native[TF_ENABLE_ONEDNN_OPTS=1,A=b=c]@{sys.executable}")
    assert other.environment == {"TF_ENABLE_ONEDNN_OPTS": "1", "A": "b=c"}
    assert (other.base, other.python) == ("tensorflow:native", sys.executable)
    assert find("tensorflow[TF_ENABLE_ONEDNN_OPTS=0]").base == "tensorflow:native"
    assert find("tensorflow[TF_ENABLE_ONEDNN_OPTS=1]").base == "tensorflow"
    assert {"pytorch:contiguous", "pytorch:native"} < set(variants("pytorch"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "pytorch:contigous",
            "pytorch has no variant 'contigous': known are pytorch:aten, pytorch:",
        ),
        ("pytorch:contigous", "did you mean 'pytorch:contiguous'?"),
        ("numerical:fast", "numerical has no variant 'fast': known are none"),
        ("pytorch[]", "[] must be KEY=VALUE,..."),
        ("pytorch[A]", "[A] must be KEY=VALUE,..."),
        ("pytorch[2A=1]", "[2A=1] must be KEY=VALUE,..."),
        ("pytorch[A=1", "must have the form NAME[KEY=VALUE,...]@path/to/python"),
        ("pytorch@python[A=1]", "python[A=1] is no interpreter"),
        ("tests.support.zoo:environment_of_numbers", "environment={'OMP_NUM_THREADS': 1} must be"),
        (
            "tests.support.zoo:environment_of_words",
            "environment='OMP_NUM_THREADS=1' must be a dict",
        ),
        (
            "tests.support.zoo:memory_in_words",
            "memory_limit='4 GiB' must be a number of bytes, or None",
        ),
    ],
)
def test_names_that_are_none(name: str, words: str) -> None:
    """What is wrong, and what is known."""
    with pytest.raises(ValueError, match=re.escape(words)):
        find(name)


def test_an_import_without_end(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, once and for all."""
    monkeypatch.setattr("oracles.process.START_LIMIT", 1.0)
    monkeypatch.setenv("SLOW_START", "600")
    worker = start("slow_start")
    for _ in range(2):
        verdict = judge(worker, PROBLEM)
        assert verdict.kind == "does not start"
        assert "does not start: no import within 1 s" in verdict.message


def test_the_log_does_not_fill_the_disk(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an oracle prints is thrown away when it is much."""
    monkeypatch.setattr("oracles.process.LOG_LIMIT", 25 << 20)
    worker = start("chatters")
    for _ in range(12):
        assert judge(worker, PROBLEM).kind == "agrees"
        assert os.fstat(worker._process._log.fileno()).st_size < 40 << 20


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(how: signal.Signals) -> None:
    """After Ctrl-C, and after pytest is killed, the oracle's processes are gone, a daemon too."""
    script = (
        "import sys, time; from tests.meta.test_worker import PROBLEM, children\n"
        "from oracles.registry import connect, find\n"
        "worker = connect(find('tests.support.zoo:leaves_a_daemon')); worker.grads(PROBLEM)\n"
        "process = worker._process\n"
        "pids = [process._zygote.pid, process._child, *children(process._child)]\n"
        "print(*pids, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # a job that a shell has put in the background ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(is_alive(pid) for pid in pids)
        process.send_signal(how)
    assert not survivors(pids)


def test_a_daemon_ends_with_the_child_that_started_it(start) -> None:
    """Though it is in a session of its own: not with the run only, of which there are long ones."""
    worker = start("leaves_a_daemon")
    worker.grads(PROBLEM)
    pids = [worker._process._child, *children(worker._process._child)]
    assert len(pids) == 2
    worker.renew()
    assert not survivors(pids)
    assert judge(worker, PROBLEM).kind == "agrees"
    assert worker.incidents == []


def survivors(pids: list[int]) -> list[int]:
    """Those of `pids` that are alive, 10 seconds from now if need be."""
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if is_alive(pid)]


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process has this pid and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_time_of_the_reference_is_not_the_oracles(start) -> None:
    """The time limit begins after what is computed meanwhile."""
    worker, done = start("hangs", time_limit=0.5), []

    def compute() -> None:
        time.sleep(0.4)
        done.append(time.monotonic())

    with pytest.raises(Hung):
        worker._process.ask(PROBLEM, compute)
    assert time.monotonic() - done[0] >= 0.5


def test_an_oracle_started_early_may_take_its_time(start, monkeypatch) -> None:
    """Its first answer waits for the import, which is no hanging fork, and is said to be slow."""
    monkeypatch.setattr("oracles.process.FORK_LIMIT", 0.1)
    monkeypatch.setenv("SLOW_START", "1")
    worker, told = start("slow_start"), []
    worker._process._told = told.append
    worker.start()
    assert judge(worker, PROBLEM).kind == "agrees"
    assert told == ["importing", ""]
    assert worker.incidents == []


def test_jax_forgets_what_it_has_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so often: else one process grows by some 8 MB a problem, until its limit aborts it."""
    forgotten: list[int] = []
    stub = SimpleNamespace(
        numpy=np,
        vjp=lambda _, *inputs: (PROBLEM.dy, lambda _: inputs),
        clear_caches=lambda: forgotten.append(len(answers)),
    )
    monkeypatch.setitem(sys.modules, "jax", stub)
    monkeypatch.setattr(jax_oracle, "_asked", count(1))
    answers: list[ConvGrads] = []
    while len(answers) < 3 * jax_oracle._KEPT:
        answers.append(jax_oracle.grads(PROBLEM))
    assert np.diff(forgotten, prepend=-1).tolist() == [jax_oracle._KEPT] * 3
