"""Kept counterexamples survive: value for value, whole or not at all, and bad files are named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from oracles.compare import Verdict
from oracles.protocol import DTYPES, Box, Domain, Evidence
from oracles.wire import encode_problem
from reference import ConvParams, ConvProblem
from tests.support import regressions
from tests.support.asked import Asked, left_behind
from tests.support.regressions import (
    kept_files,
    load,
    problem_from_json,
    problem_to_json,
    replay_command,
    save,
    save_worst,
)
from tests.support.strategies import problems

ANY = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES))
PROBLEM = ConvProblem(
    np.float32([[[0.1], [np.inf], [np.nan]]]),
    np.float32([[[-0.0]]]),
    np.float32([1e-45]),
    np.float32([[[1], [2], [3]]]),
    ConvParams((1,), ((0, 0),), (1,)),
)
VERDICT = Verdict("pytorch", PROBLEM, "crashes", "pytorch crashes with SIGSEGV [...]")


def same(got: ConvProblem, want: ConvProblem) -> bool:
    """Equal in params and in every bit of every array."""
    pairs = [(getattr(got, name), getattr(want, name)) for name in ("x", "w", "b", "dy")]
    return got.params == want.params and all(
        (a is None) == (b is None)
        and (a is None or (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()))
        for a, b in pairs
    )


@given(problem=problems(ANY, 2, "float64"))
def test_problems_survive_json(problem: ConvProblem) -> None:
    """Through text and back, bit for bit."""
    assert same(problem_from_json(json.loads(json.dumps(problem_to_json(problem)))), problem)


def test_special_values_survive_a_file(tmp_path: Path) -> None:
    """NaN, Inf, -0.0 and subnormals too, in JSON that any reader takes."""
    path = save(VERDICT, "2.13.0", tmp_path)
    kept = load(path)
    assert same(kept.problem, PROBLEM)
    assert (kept.oracle, kept.version, kept.kind) == ("pytorch", "2.13.0", "crashes")
    assert kept.message == VERDICT.message
    assert not re.search(r"\bNaN\b|\bInfinity\b", path.read_text())


def test_the_same_finding_is_one_file(tmp_path: Path) -> None:
    """Kept twice, by two runs, it is still one file; another problem is another file."""
    first = save(VERDICT, "2.13.0", tmp_path)
    assert save(VERDICT, "2.13.0", tmp_path) == first
    other = ConvProblem(PROBLEM.x, PROBLEM.w, None, PROBLEM.dy, PROBLEM.params)
    second = save(Verdict("pytorch", other, "crashes"), "2.13.0", tmp_path)
    assert kept_files(tmp_path) == sorted([first, second])


def test_a_write_that_fails_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept before is still whole, and no half a file is read."""
    path = save(VERDICT, "2.13.0", tmp_path)
    before = path.read_text()

    def full_disk(path: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(regressions.Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(VERDICT, "2.14.0", tmp_path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".half-of-a-file.json").write_text("{")
    assert kept_files(tmp_path) == [path]


def test_two_runs_at_the_same_time(tmp_path: Path) -> None:
    """They write the same files again and again; whoever reads meanwhile finds them whole."""
    script = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from tests.meta.test_regressions import VERDICT, save\n"
        "for number in range(150):\n"
        "    verdict = replace(VERDICT, kind=f'kind {number % 5}')\n"
        "    save(verdict, '1', Path(sys.argv[1]), script='print(1)\\n' * 1000)\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    read = 0
    while any(run.poll() is None for run in runs):
        for path in kept_files(tmp_path):
            assert same(load(path).problem, PROBLEM)
            assert path.with_suffix(".py").read_text().count("print") == 1000
            read += 1
    assert read > 10
    assert [run.wait() for run in runs] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 2 * 5


def test_what_must_be_asked_before_is_kept(tmp_path: Path) -> None:
    """And how often; a file of the first format had neither."""
    evidence = Evidence(PROBLEM, (PROBLEM, PROBLEM), asks=7)
    path = save(Verdict("pytorch", PROBLEM, "crashes", evidence=evidence), "2.13.0", tmp_path)
    kept = load(path)
    assert (len(kept.before), kept.asks) == (2, 7)
    assert same(kept.before[1], PROBLEM)
    content = json.loads(path.read_text())
    del content["before"], content["asks"]
    path.write_text(json.dumps({**content, "format": 1}))
    assert (load(path).before, load(path).asks) == ((), 1)


def test_a_killed_run_leaves_its_last_question(tmp_path: Path) -> None:
    """The next run finds it, once; not that of a run that goes on, nor half a file."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from oracles.wire import encode_problem\n"
        "from tests.meta.test_regressions import PROBLEM\n"
        "from tests.support.asked import Asked\n"
        "Asked('mine', Path(sys.argv[1]))(encode_problem(PROBLEM))\n"
    )
    keeps = script.replace("Asked('mine'", "asked = Asked('mine'").replace("))(", ")); asked(")
    keeps += "print('asked', flush=True); time.sleep(60)\n"
    run = subprocess.Popen(
        [sys.executable, "-c", keeps, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout.readline() == "asked\n"
        assert left_behind(tmp_path) == []
        run.kill()
    (tmp_path / ".asked-half").write_bytes(b"half of a file")
    [(oracle, problem)] = left_behind(tmp_path)
    assert oracle == "mine"
    assert same(problem, PROBLEM)
    assert list(tmp_path.iterdir()) == []
    asked = Asked("mine", tmp_path)
    asked(encode_problem(PROBLEM))
    asked.close()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_both_of_its_last_questions(tmp_path: Path) -> None:
    """Where one was sent before the other was answered; a shorter one after that is by itself."""
    other = replace(PROBLEM, w=-PROBLEM.w)
    for behind, left in ((True, [PROBLEM, other]), (False, [other])):
        asked = Asked("mine", tmp_path)
        asked(encode_problem(PROBLEM), False)
        asked(encode_problem(PROBLEM), True)
        asked(encode_problem(PROBLEM), False)
        asked(encode_problem(other), behind)
        os.close(asked._descriptor)  # as the end of its process does
        found = left_behind(tmp_path)
        assert [oracle for oracle, _ in found] == ["mine"] * len(left)
        assert all(same(problem, want) for (_, problem), want in zip(found, left))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a kept counterexample: JSONDecodeError"),
        ("[]", "not a kept counterexample: TypeError"),
        ("{}", "not a kept counterexample: KeyError('format')"),
        ('{"format": 3}', "format 3, but this project reads 1 and 2"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_bad_files_are_named(text: str | None, words: str, tmp_path: Path) -> None:
    """The error begins with the file."""
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))


def test_the_command_can_be_pasted() -> None:
    """Brackets and blanks mean something to a shell."""
    command = replay_command("pytorch[A=b c]", Path("dir/file.json"))
    assert command == "pytest '--oracle=pytorch[A=b c]' --replay=dir/file.json"


def test_only_what_is_further_off_takes_the_place_of_a_worst_case(tmp_path: Path) -> None:
    """One file for each oracle, dtype and result, with the problem of the largest ratio."""

    def keep(ratio: float, result: str = "dx") -> Path | None:
        ratios = {"dx": np.array([0.1, ratio]), "dw": np.array([ratio])}
        verdict = Verdict("pytorch", PROBLEM, "agrees", ratios=ratios)
        return save_worst(verdict, "2.13", result, tmp_path)

    path = keep(0.5)
    assert path == tmp_path / "worst" / "pytorch-float32-dx.json"
    assert keep(0.4) is None
    assert load(path).ratio == 0.5
    assert keep(0.75) == path
    kept = load(path)
    assert (kept.kind, kept.ratio, kept.version) == ("worst", 0.75, "2.13")
    assert same(kept.problem, PROBLEM)
    assert keep(0.2, "dw") == tmp_path / "worst" / "pytorch-float32-dw.json"
    assert kept_files(tmp_path) == [tmp_path / "worst" / "pytorch-float32-dw.json", path]


def test_a_file_can_be_read_and_compared(tmp_path: Path) -> None:
    """A line for every entry, and one for all values of an array, however many they are."""
    ones = np.ones((1, 40, 40), "float32")
    large = ConvProblem(ones, ones[0, None], None, ones, ConvParams((1,), ((0, 0),), (1,)))
    evidence = Evidence(large, before=(PROBLEM,))
    path = save(Verdict("mine", large, "differs", "wrong", evidence=evidence), "1", tmp_path)
    assert same(load(path).problem, large)
    assert same(load(path).before[0], PROBLEM)
    lines = path.read_text().splitlines()
    assert sum(line.strip().startswith('"values": [1.0, 1.0') for line in lines) == 3
    assert len(lines) < 70
