"""What a user types and sees: options, header, failure, table and exit code of a pytest run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles.compare import Disagreement, Verdict
from oracles.protocol import Evidence
from oracles.registry import Entry, entries, find, names
from reference import ConvParams, ConvProblem
from tests.support.mutants import oracle_name
from tests.support.regressions import load, save
from tests.support.reporting import COLUMNS, Tally, plain_table, rich_table, table_rows
from tests.support.verification import Verification

ROOT = Path(__file__).resolve().parents[2]
EXACT = "tests/verification/test_oracles.py::test_exact"
HIDE_TENSORFLOW = """
import importlib.metadata

real_version = importlib.metadata.version

def version(name):
    if name.startswith("tensorflow"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real_version(name)

importlib.metadata.version = version
"""
WRONG_DX = r"dx\[0, 0, \d\] = -?\d, but should be -?\d"
INSTALL_LINE = "tensorflow is not installed: pip install -c constraints.txt tensorflow-cpu"


def run_pytest(*arguments: str, seed: int | None = 0, **environment: str) -> tuple[int, str]:
    """Exit code and output of a pytest run of its own, on no terminal, as on nobody's CI.

    pytest and Hypothesis print other lines where CI is set. It draws the same problems each time
    and keeps what it finds where nobody looks, unless `arguments`, which come last, say otherwise.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        options = ["-p", "no:cacheprovider", f"--regressions={nowhere}"]
        options += [] if seed is None else [f"--hypothesis-seed={seed}"]
        inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=ROOT,
            env={**inherited, "HYPOTHESIS_STORAGE_DIRECTORY": nowhere, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


def rows(output: str) -> dict[str, list[str]]:
    """The agreement table of a run: cells by oracle."""
    table = output.partition("agreement with the NumPy reference")[2].splitlines()[2:]
    cells = [re.split(r"  +", line) for line in table if "  " in line]
    return {row[0]: row[1:] for row in cells}


def test_unknown_oracle() -> None:
    """A name that is misspelt is an error that lists the known ones."""
    code, output = run_pytest("--oracle", "pytroch", EXACT)
    assert code == pytest.ExitCode.USAGE_ERROR
    known = ", ".join(sorted(names()))
    assert f"--oracle: oracle 'pytroch' is unknown: known are {known}" in output
    assert "did you mean 'pytorch'?" in output


def test_unknown_profile() -> None:
    """So is one of Hypothesis' profiles."""
    code, output = run_pytest("--hypothesis-profile=foo", EXACT)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --hypothesis-profile foo: must be dev, ci or nightly" in output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module", "cannot be loaded: ModuleNotFoundError: No module named 'no'"),
        ("nomodule:thing", "cannot be loaded: ModuleNotFoundError: No module named 'nomodule'"),
        ("kernels/my_kernel.py", "cannot be loaded: FileNotFoundError: there is no file /"),
        ("tests.meta.broken_oracles:box", "domain must be a Domain(Box(...), ...), not a Box"),
        ("tests.meta.broken_oracles:number", "distribution=5 must be the name of a package"),
        ("tests.support.zoo:nobody", "cannot be loaded: tests.support.zoo has no 'nobody'"),
        ("reference.conv", "lacks distribution, domain, grads: an oracle has the names"),
    ],
)
def test_outside_oracle_that_cannot_be_loaded(name: str, words: str) -> None:
    """An oracle from outside that is none says what is wrong."""
    with pytest.raises(ValueError, match=re.escape(words)):
        find(name)


@pytest.fixture
def without_tensorflow(tmp_path: Path) -> dict[str, str]:
    """The environment of a run that finds no TensorFlow installed."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_TENSORFLOW)
    return {"PYTHONPATH": str(tmp_path)}


def test_missing_by_default_is_skipped(without_tensorflow: dict[str, str]) -> None:
    """Header, skip and summary say that it is not installed, and how to install it."""
    code, output = run_pytest("-rs", EXACT, "-k", "1d-float32", **without_tensorflow)
    assert code == pytest.ExitCode.OK
    assert output.count(INSTALL_LINE) == 3
    assert "oracles: numerical, pytorch 2." in output
    assert rows(output)["tensorflow"][0] == "not installed"
    absent = [
        entry
        for entry in entries()
        if not entry.installed and (1, "float32") in entry.oracle.domain.cells()
    ]
    assert f"2 passed, {1 + len(absent)} skipped" in output


@pytest.mark.parametrize("option", [["--oracle", "tensorflow"], ["--require-oracles"]])
def test_missing_and_asked_for_is_an_error(
    option: list[str], without_tensorflow: dict[str, str]
) -> None:
    """The same line, as an error."""
    code, output = run_pytest(*option, EXACT, **without_tensorflow)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {INSTALL_LINE}" in output


def test_what_make_does_not_install_is_not_required() -> None:
    """JAX and others are skipped where they are missing, in a run that requires all oracles too."""
    assert run_pytest("--require-oracles", "--collect-only", EXACT)[0] == pytest.ExitCode.OK


def test_a_wrong_oracle_turns_the_run_red() -> None:
    """One line of verdict, a constructor that can be pasted, the table, exit code 1.

    Of source there is the test only, nothing of what lies between it and the oracle.
    """
    name = "tests.support.mutants.dx:dx_group_offset"
    code, output = run_pytest("--oracle", name, "--oracle", "numerical", EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    verdict = re.search(rf"Disagreement: {name} {WRONG_DX} \(allowed 0; .*", output)
    assert verdict is not None
    assert "reference, numerical, exact agree) [1-D float32, x (1, 1, " in verdict[0]
    places = re.findall(r"^(\S+\.py):\d+: ", output, re.MULTILINE)
    assert places == ["tests/verification/test_oracles.py"]
    table = rows(output)
    assert table[name][2:6] == ["failed", "exact", "exact", "exact"]
    assert table["numerical"][2:6] == ["exact", "exact", "exact", "-"]
    [prefix] = re.findall(r"^(E +)import numpy as np$", output, re.MULTILINE)
    script = "import numpy as np" + output.partition("import numpy as np")[2]
    script = "".join(script.partition(".check()")[:2])
    script = re.sub(rf"^{prefix}|^E$", "", script, flags=re.MULTILINE)
    again = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert verdict[0].partition(" (allowed")[0] in again.stderr


def test_a_failure_is_kept_and_replayed(tmp_path: Path) -> None:
    """The shrunk problem is in a file; it comes first in the next run, or alone."""
    name = "tests.support.mutants.dx:dx_group_offset"
    options = (f"--regressions={tmp_path}", "--oracle", name, "--oracle", "numerical")
    code, output = run_pytest(*options, EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    [kept] = tmp_path.iterdir()
    assert re.fullmatch(r"tests-support-mutants-dx-dx_group_offset-differs-\w{12}\.json", kept.name)
    assert f"kept; to see it again: pytest --oracle={name} --replay={kept}" in output
    assert re.match(f"{name} {WRONG_DX}", load(kept).message)
    for arguments in (["tests/verification/test_kept.py"], [f"--replay={kept}"]):
        code, output = run_pytest(*options, *arguments)
        assert code == pytest.ExitCode.TESTS_FAILED
        assert f"Disagreement: {load(kept).message.splitlines()[0]}" in output
        assert rows(output)["numerical"][1:3] == ["1", "exact"]
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"dtype": "int32"}, [], "numerical is not asked for kept.json: dtype int32"),
        ({}, [EXACT], "--replay needs tests/verification/test_kept.py: give no other path"),
    ],
)
def test_replay_that_asks_nobody(
    changes: dict[str, str], arguments: list[str], words: str, tmp_path: Path
) -> None:
    """A replay in which nothing is asked is not green."""
    array = {"dtype": "float32", "shape": [1, 1, 1], "values": [1], **changes}
    params = {"stride": [1], "padding": [[0, 0]], "dilation": [1], "groups": 1}
    problem = {**params, "arrays": {"x": array, "w": array, "dy": array}}
    words_of = dict.fromkeys(("oracle", "version", "kind", "message"), "")
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"format": 1, "problem": problem, **words_of}))
    code, output = run_pytest("--oracle", "numerical", f"--replay={kept}", *arguments)
    assert code != pytest.ExitCode.OK
    assert words in output


def test_what_cannot_be_kept_is_still_said(tmp_path: Path) -> None:
    """A directory that cannot be written hides no verdict."""
    (tmp_path / "file").touch()
    name = "tests.support.mutants.dx:dx_group_offset"
    directory = f"--regressions={tmp_path / 'file' / 'directory'}"
    code, output = run_pytest(directory, "--oracle", name, EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert re.search(rf"Disagreement: {name} {WRONG_DX}", output)
    assert "could not be kept in" in output


def test_an_oracle_that_is_a_module(tmp_path: Path) -> None:
    """The example, with its computation filled in, is verified by the command beside it."""
    page = (ROOT / "docs" / "oracles.md").read_text()
    code = page.partition("# my_kernel.py\n")[2].partition("```")[0]
    computation = "conv_backward(x, w, dy, params)"
    filled = code.replace("dx, dw, db = ...", f"g = {computation}; dx, dw, db = g.dx, g.dw, g.db")
    assert filled != code
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "my_kernel.py").write_text(
        f"from reference import conv_backward\n{filled}"
    )
    command = "pytest tests/verification --oracle kernels.my_kernel --oracle numerical"
    assert command in page
    arguments = [*command.split()[1:], "-k", "kernels.my_kernel"]
    exit_code, output = run_pytest(*arguments, PYTHONPATH=str(tmp_path))
    assert exit_code == pytest.ExitCode.OK, output
    assert rows(output)["kernels.my_kernel"][2:6] == ["exact", "exact", "exact", "-"]


def test_a_script_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    """The finding is kept without it, and that is said."""
    name = "tests.support.zoo:wrong_without_a_script"
    arguments = ("--oracle", name, EXACT, "-k", "1d-float32", f"--regressions={tmp_path}")
    code, output = run_pytest(*arguments)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "no standalone script: KeyError: 'no script for rank 1'" in output
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize(
    ("name", "doubt"), [("zoo:wrong_ever_after", True), ("mutants.db:db_first_sample_only", False)]
)
def test_what_is_right_in_a_new_process_is_said(name: str, doubt: bool, tmp_path: Path) -> None:
    """Differences are shrunk in one process, which the first may have spoilt."""
    entry = find(f"tests.support.{name}")
    verification = Verification(
        [entry], Tally(), in_process=False, time_limit=30, regressions=tmp_path
    )
    one = np.ones((2, 1, 1), np.float32)
    problem = ConvProblem(one, one[:1], one[0, 0], one, ConvParams((1,), ((0, 0),), (1,)))
    with pytest.raises(Disagreement) as caught, verification.keeping():
        raise Verdict(entry.name, problem, "differs", "words").failure()
    verification.close()
    words = "in a new process it is right: something asked before has a part in it"
    assert (words in caught.value.__notes__[0]) == doubt


def test_an_innocent_problem_is_not_shrunk() -> None:
    """Where another problem is guilty the search for examples ends, and that problem is shown."""
    name = "tests.support.zoo:crashes_50_problems_later"
    arguments = ("--oracle", name, EXACT, "-k", "2d-float32", "--hypothesis-profile=ci")
    code, output = run_pytest(*arguments)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"NoAnswer: {name} crashes with SIGSEGV, when asked 51 times in one process" in output
    assert "first seen while it answered [2-D float32, x (" in output
    assert "stride (2, 1), padding ((0, 0), (0, 0)), dilation (1, 1), groups 1]" in output
    assert "kept; to see it again: " in output
    assert int(rows(output)[name][1]) <= 250


def test_what_was_asked_before_is_replayed(tmp_path: Path) -> None:
    """A fault that needs another problem first shows in a replay, and only with that problem."""
    name = "tests.support.zoo:answers_the_problem_before"
    one = np.ones((1, 1, 1), np.float32)
    problem = ConvProblem(one, one, None, one, ConvParams((1,), ((0, 0),), (1,)))
    before = (replace(problem, dy=2 * one),)
    for evidence, code in ((Evidence(problem, before), 1), (Evidence(problem), 0)):
        verdict = Verdict(name, problem, "differs", "words", evidence=evidence)
        kept = save(verdict, "", tmp_path)
        assert run_pytest("--oracle", name, f"--replay={kept}")[0] == code


def test_replay_of_nothing() -> None:
    """A file that is not there is an error, not a green run."""
    code, output = run_pytest("--replay=no.json")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--replay no.json: no such file" in output


def test_a_crashing_oracle_does_not_end_the_run() -> None:
    """The crash is a failure of its own test; what comes after it is still verified."""
    name = "tests.support.zoo:segfaults_on_stride_2"
    code, output = run_pytest("--oracle", name, "--oracle", "numerical", EXACT, "-k", "1d")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"NoAnswer: {name} crashes with SIGSEGV, " in output
    for dtype in ("float32", "float64"):
        assert f" [1-D {dtype}, x (1, 1, 1), w (1, 1, 1), no bias, stride (2,)," in output
    assert "2 failed, 4 passed" in output  # numerical takes 16-bit floats too
    assert int(rows(output)["numerical"][1]) >= 50 * 2


def test_a_crash_seen_once_is_reported_and_red(tmp_path: Path) -> None:
    """All tests pass, since the fault did not show again, but the run says it, and is red."""
    once = tmp_path / "once"
    once.touch()
    name = "tests.support.zoo:segfaults_once"
    code, output = run_pytest("--oracle", name, EXACT, "-k", "1d-float32", ONCE=str(once))
    assert "1 passed" in output
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "seen once: no problem could be found that shows it again" in output
    assert f"{name} crashes with SIGSEGV; not again in fresh processes [1-D float32" in output
    assert "the run is red: exit code 1" in output


def test_keep_going(tmp_path: Path) -> None:
    """After a failure its region is left out, and what else is wrong is found in the same test."""
    name = "tests.support.zoo:two_regions"
    arguments = ("--oracle", name, EXACT, "-k", "2d-float32", f"--regressions={tmp_path}")
    code, output = run_pytest(*arguments, "--keep-going", "--hypothesis-profile=ci")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 findings (2 sub-exceptions)" in output
    assert f"NoAnswer: {name} crashes with SIGSEGV" in output
    assert f"Disagreement: {name} dx[0, 0, 0, 0] = 1, but should be 0" in output
    assert "in common: stride[-2] == 2 (so have " in output
    assert "in common: F >= 3 (so have " in output
    assert int(rows(output)[name][6].replace(",", "")) > 50


def test_a_killed_run_leaves_nothing_but_its_questions(tmp_path: Path) -> None:
    """No process stays, and the next run says what the oracle was asked, and what was to follow."""
    name, tag = "tests.support.zoo:hangs", f"KILLED={tmp_path.name}"
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)}
    options = ["--time-limit=100", f"--regressions={tmp_path}", EXACT, "-k", "1d-float32"]
    options += ["--hypothesis-seed=0"]  # with which the second is small enough to be sent behind
    command = [sys.executable, "-m", "pytest", "--oracle", f"{name}[{tag}]", *options]

    def asks_two() -> bool:
        return any(b'"problems": 2' in path.read_bytes() for path in tmp_path.glob(".asked-*"))

    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as run:
        try:
            wait_until(asks_two)
            assert processes_with(tag)
        finally:
            run.kill()
    wait_until(lambda: not processes_with(tag))
    _, output = run_pytest("--collect-only", f"--regressions={tmp_path}")
    kept = list((tmp_path / "seen-once").glob("*.json"))
    assert len(kept) == 2
    for path in kept:
        assert f"an earlier run was killed; what it was asking is kept: --replay={path}" in output
        assert load(path).message == f"{name}[{tag}] was asked this when its run was killed"


@pytest.mark.parametrize("interrupted", [False, True])
def test_xdist_leaves_no_process(interrupted: bool, tmp_path: Path) -> None:
    """Neither at its end nor after Ctrl-C."""
    tag = f"XDIST={tmp_path.name}"
    options = ["-n", "2", f"--regressions={tmp_path}", EXACT, "-k", "1d", "-p", "no:cacheprovider"]
    name = "hangs" if interrupted else "right"
    command = [sys.executable, "-m", "pytest", "--oracle", f"tests.support.zoo:{name}[{tag}]"]
    with subprocess.Popen(
        command + options, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=heed_interrupts
    ) as run:
        if interrupted:
            wait_until(lambda: len(processes_with(tag)) >= 4)
            run.send_signal(signal.SIGINT)
        code = run.wait(timeout=60)
    assert code == (pytest.ExitCode.INTERRUPTED if interrupted else pytest.ExitCode.OK)
    wait_until(lambda: not processes_with(tag))


def heed_interrupts() -> None:
    """Do not ignore Ctrl-C, as a job does that a shell has put in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_with(setting: str) -> list[str]:
    """The processes that have this environment variable set so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{setting}\0".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def wait_until(holds: Callable[[], object]) -> None:
    """Wait, not too long."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_in_process() -> None:
    """`--in-process` starts no process: the oracle's own exception can be seen."""
    name = "tests.support.zoo:raises"
    arguments = ("--oracle", name, "--in-process", EXACT, "-k", "1d-float32")
    code, output = run_pytest(*arguments)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "zoo.py" in output
    assert "raises NotImplementedError: no kernel for this" in output


@pytest.mark.parametrize(
    ("given", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}, 2)]
)
def test_threads_in_process(given: dict[str, str], threads: int) -> None:
    """A framework in this process has one thread too, unless the user says another number.

    With two, TensorFlow's strided 1x1 kernels corrupt the heap where the ledger does not say so.
    """
    code = (
        "from oracles.registry import connect, find\n"
        "connect(find('pytorch'), in_process=True)\n"
        "import torch\n"
        "print(torch.get_num_threads())"
    )
    environment = {key: value for key, value in os.environ.items() if "NUM_THREADS" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == threads


def test_workers_of_xdist_are_added_up() -> None:
    """Under pytest-xdist the table is that of all its processes."""
    arguments = ("--oracle", "numerical", EXACT, "-k", "float32")
    for option in ([], ["-n", "2"]):
        row = rows(run_pytest(*arguments, *option)[1])["numerical"]
        assert int(row[1]) - int(row[7]) == 150  # problems that are not weak


def test_what_one_process_has_found_another_begins_with(tmp_path: Path) -> None:
    """By Hypothesis' own database, a directory: it is found at once, and is small already."""
    name = oracle_name("dx_channel_tail_dropped")
    arguments = ("--oracle", name, EXACT, "-k", "2d-float32")
    asked = []
    for _ in range(2):
        code, output = run_pytest(*arguments, seed=None, HYPOTHESIS_STORAGE_DIRECTORY=str(tmp_path))
        assert code == pytest.ExitCode.TESTS_FAILED
        asked.append(int(rows(output)[name][1].replace(",", "")))
    assert asked[1] * 2 < asked[0]


def test_kept_counterexamples_come_first() -> None:
    """Whatever else is asked for, and in whatever order."""
    _, output = run_pytest("--collect-only", "-q", "--oracle", "numerical", EXACT, "tests")
    assert output.splitlines()[0].startswith("tests/verification/test_kept.py::")


def test_a_number_of_problems() -> None:
    """`--problems` takes the place of the profile's number; none is not a number."""
    arguments = ("--oracle", "tests.support.zoo:right", EXACT, "-k", "1d-float32")
    for profile in ([], ["--hypothesis-profile=ci"]):
        row = rows(run_pytest(*arguments, "--problems=70", *profile)[1])["tests.support.zoo:right"]
        assert int(row[1]) - int(row[7]) == 70
    code, output = run_pytest(*arguments, "--problems=0")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--problems 0: must be at least 1" in output


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], r"\d s · importing tests.support.zoo:slow_start · 0 problems so far · test_exact\["),
        (["-n", "1"], r"\d s · test_exact\["),  # how many problems is known at the end
    ],
)
def test_progress_on_a_terminal(options: list[str], line: str) -> None:
    """On a terminal a line below pytest's own says what is slow; it is gone at the end."""
    choice = ["--oracle", "tests.support.zoo:slow_start", EXACT, "-k", "1d-float32", *options]
    command = [sys.executable, "-m", "pytest", "-v", *choice]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "SLOW_START": "3", "COLUMNS": "120"},
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # how a terminal says that it is closed
            while data := os.read(ours, 4096):
                output += data
    os.close(ours)
    text = output.decode()
    assert re.search(line, text)
    assert "agreement with the NumPy reference" in text
    assert "──────" in text  # the table of a terminal
    *_, last = re.findall(r"\x1b\[2K([^\x1b\r\n]*)", text)
    assert last == ""


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_time_limit_of_nothing(limit: str) -> None:
    """A time limit that is none is refused, not taken for the default."""
    code, output = run_pytest("--time-limit", limit, EXACT)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"--time-limit {float(limit)}: must be above 0, and at most a day" in output


def test_the_module_of_an_oracle_in_the_tree() -> None:
    """Its dotted name means the same oracle, which the ledger knows."""
    assert find("oracles.pytorch").name == "pytorch"


def test_both_tables_say_the_same() -> None:
    """The table for a terminal has the cells of the plain one."""
    entries = [find("numerical"), Entry("absent", find("pytorch").oracle, None)]
    tally = Tally()
    tally.count("numerical").problems = 1234
    tally.count("numerical").failed["dw"] = 1
    cells = table_rows(entries, tally)
    for text in (plain_table(cells, 80), re.sub(r"\x1b\[[0-9;]*m", "", rich_table(cells, 120))):
        for cell in (*COLUMNS, "numerical", "1,234", "failed", "absent", "not installed"):
            assert cell in text
