"""What a user types and sees: options, header, failure, table and exit code of a pytest run."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from oracles.registry import Entry, find
from tests.support.regressions import load
from tests.support.reporting import COLUMNS, Tally, plain_table, rich_table, table_rows

ROOT = Path(__file__).resolve().parents[2]
EXACT = "tests/verification/test_oracles.py"
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


def run_pytest(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of a pytest run of its own, on no terminal.

    It draws the same problems each time and keeps what it finds where nobody looks, unless
    `arguments`, which come last, say otherwise.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        options = ["-p", "no:cacheprovider", "--hypothesis-seed=0", f"--regressions={nowhere}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=ROOT,
            env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": nowhere, **environment},
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
    assert (
        "--oracle: oracle 'pytroch' is unknown: known are numerical, pytorch, tensorflow" in output
    )
    assert "did you mean 'pytorch'?" in output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module", "oracle 'no.such.module' cannot be loaded: No module named 'no'"),
        ("tests.support.zoo:nobody", "cannot be loaded: module 'tests.support.zoo' has no"),
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
    assert "2 passed, 1 skipped" in output


@pytest.mark.parametrize("option", [["--oracle", "tensorflow"], ["--require-oracles"]])
def test_missing_and_asked_for_is_an_error(
    option: list[str], without_tensorflow: dict[str, str]
) -> None:
    """The same line, as an error."""
    code, output = run_pytest(*option, EXACT, **without_tensorflow)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {INSTALL_LINE}" in output


def test_a_wrong_oracle_turns_the_run_red() -> None:
    """One line of verdict, a constructor that can be pasted, the table, exit code 1."""
    name = "tests.support.mutants:group_offset"
    code, output = run_pytest("--oracle", name, "--oracle", "numerical", EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    verdict = re.search(rf"Disagreement: {name} {WRONG_DX} \(allowed 0; .*", output)
    assert verdict is not None
    assert "reference, numerical, exact agree) [1-D float32, x (1, 1, " in verdict[0]
    table = rows(output)
    assert table[name][2:6] == ["failed", "exact", "exact", "exact"]
    assert table["numerical"][2:6] == ["exact", "exact", "exact", "-"]
    script = "import numpy as np" + output.partition("import numpy as np")[2]
    script = "".join(script.partition(".check()")[:2])
    script = re.sub(r"^E {0,3}", "", script, flags=re.MULTILINE)
    again = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert verdict[0].partition(" (allowed")[0] in again.stderr


def test_a_failure_is_kept_and_replayed(tmp_path: Path) -> None:
    """The shrunk problem is in a file; it comes first in the next run, or alone."""
    name = "tests.support.mutants:group_offset"
    options = (f"--regressions={tmp_path}", "--oracle", name, "--oracle", "numerical")
    code, output = run_pytest(*options, EXACT, "-k", "1d-float32")
    assert code == pytest.ExitCode.TESTS_FAILED
    [kept] = tmp_path.iterdir()
    assert re.fullmatch(r"tests-support-mutants-group_offset-differs-\w{12}\.json", kept.name)
    assert f"kept; to see it again: pytest --replay={kept}" in output
    assert re.match(f"{name} {WRONG_DX}", load(kept).message)
    for arguments in (["tests/verification/test_kept.py"], [f"--replay={kept}"]):
        code, output = run_pytest(*options, *arguments)
        assert code == pytest.ExitCode.TESTS_FAILED
        assert f"Disagreement: {load(kept).message.splitlines()[0]}" in output
        assert rows(output)["numerical"][1:3] == ["1", "exact"]
    assert list(tmp_path.iterdir()) == [kept]


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
    assert f"Disagreement: {name} crashes with SIGSEGV, again in fresh process 1 of 3" in output
    assert "stride (2,)" in output
    assert "2 failed, 2 passed" in output
    assert int(rows(output)["numerical"][1]) >= 50 * 2


def test_a_crash_seen_once_is_reported_and_red(tmp_path: Path) -> None:
    """All tests pass, since the fault did not show again, but the run says it, and is red."""
    once = tmp_path / "once"
    once.touch()
    name = "tests.support.zoo:segfaults_once"
    code, output = run_pytest("--oracle", name, EXACT, "-k", "1d-float32", ONCE=str(once))
    assert "1 passed" in output
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "seen once: not again when the same problem was asked again" in output
    assert f"{name} crashes with SIGSEGV; not again in 3 fresh processes [1-D float32" in output
    assert "the run is red: exit code 1" in output


def test_in_process() -> None:
    """`--in-process` starts no process: the oracle's own exception can be seen."""
    name = "tests.support.zoo:raises"
    arguments = ("--oracle", name, "--in-process", EXACT, "-k", "1d-float32")
    code, output = run_pytest(*arguments)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "zoo.py" in output
    assert "raises NotImplementedError: no kernel for this" in output


def test_workers_of_xdist_are_added_up() -> None:
    """Under pytest-xdist the table is that of all its processes."""
    arguments = ("--oracle", "numerical", EXACT, "-k", "float32")
    alone, spread = run_pytest(*arguments)[1], run_pytest(*arguments, "-n", "2")[1]
    assert rows(alone)["numerical"][1] == rows(spread)["numerical"][1] == "150"


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a line below pytest's own says what is slow; it is gone at the end."""
    name = "tests.support.zoo:slow_start"
    command = [sys.executable, "-m", "pytest", "-v", "--oracle", name, EXACT, "-k", "1d-float32"]
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
    assert re.search(rf"\d s · importing {name} · 0 problems so far · test_exact", text)
    assert "agreement with the NumPy reference" in text
    assert "┃ oracle" in re.sub(r"\x1b\[[0-9;]*m", "", text)  # the table of a terminal
    *_, last = re.findall(r"\x1b\[2K([^\x1b\r\n]*)", text)
    assert last == ""


def test_time_limit_of_nothing() -> None:
    """A time limit of zero is refused, not taken for the default."""
    code, output = run_pytest("--time-limit", "0", EXACT)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--time-limit 0.0: must be above 0" in output


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
