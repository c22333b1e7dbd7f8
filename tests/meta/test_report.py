"""`--report DIR`: it says what is true, in a form that programs can read, whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from oracles.compare import Disagreement, NoAnswer, Verdict, judge
from oracles.registry import connect, find
from reference import ConvParams, ConvProblem
from tests.meta.test_face import EXACT, ROOT, heed_interrupts, run_pytest, wait_until
from tests.support.mutants import oracle_name
from tests.support.report import REASONS, TEMPLATES, Outcome, Report, heat_map, render
from tests.support.reporting import Tally, finding_of, reason_of

SCHEMA = json.loads((TEMPLATES / "report.schema.json").read_text())
WRONG = oracle_name("dx_kernel_not_flipped")


def read(directory: Path) -> dict[str, Any]:
    """The report in `directory`, which is as the schema says."""
    content: dict[str, Any] = json.loads((directory / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    return content


def empty(tmp_path: Path, request: pytest.FixtureRequest) -> Report:
    """The report of a run in which nothing has happened."""
    return Report(request.config, tmp_path / "report", [find("numerical")], Tally())


def finding(message: str = "") -> Any:
    """What a wrong oracle comes to."""
    ones = np.ones((1, 2, 2, 1), np.float32)
    w = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    problem = ConvProblem(ones, w, None, np.ones((1, 1, 1, 1), np.float32), ConvParams())
    verdict = judge(connect(find(WRONG), in_process=True), problem)
    assert verdict.kind == "differs"
    if message:
        verdict = replace(verdict, words=message)
    return finding_of(verdict, "", None, None)


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_disagreement(options: tuple[str, ...], tmp_path: Path) -> None:
    """It is the reason, with its problem, script, arrays and a picture of the error."""
    arguments = ("--oracle", WRONG, "--oracle", "numerical", EXACT, "-k", "2d-float32")
    code, output = run_pytest(*arguments, *options, f"--report={tmp_path}")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"report: {tmp_path / 'report.html'}" in output
    assert "Red: disagreement (1). " in output
    content = read(tmp_path)
    assert content["state"] == "finished"
    assert content["verdict"]["colour"] == "red"
    [reason] = content["verdict"]["reasons"]
    assert (reason["reason"], reason["count"]) == ("disagreement", 1)
    assert (content["tests"]["passed"], content["tests"]["failed"]) == (1, 1)
    results = {of["name"]: of["results"]["dx"] for of in content["oracles"]}
    assert results == {WRONG: "failed", "numerical": "exact"}
    [found] = content["findings"]
    assert found["message"].startswith(f"{WRONG} dx[")
    assert any(found["errors"]["dx"]["elements"])
    folder = tmp_path / found["folder"]
    assert {path.name for path in folder.iterdir()} == {
        "problem.json", "show.py", "arrays.npz", "dx.svg"
    }  # fmt: skip
    assert "dx[0, 0, 0, 0]" in (folder / "dx.svg").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Red: disagreement (1)" in page
    assert "src=" not in page  # nothing is fetched
    assert "- **disagreement** (1)" in (tmp_path / "summary.md").read_text()


def test_nothing_to_find(tmp_path: Path) -> None:
    """Green, and it says how much was asked."""
    code, _ = run_pytest("--oracle", "numerical", EXACT, "-k", "1d", f"--report={tmp_path}")
    assert code == pytest.ExitCode.OK
    content = read(tmp_path)
    assert content["verdict"] == {
        "colour": "green",
        "sentence": content["verdict"]["sentence"],
        "reasons": [],
    }
    assert content["verdict"]["sentence"].startswith("Green: ")
    assert content["oracles"][0]["problems"] > 100
    assert not list(tmp_path.glob("findings-*"))


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_does_not_end(killed_by: signal.Signals, tmp_path: Path) -> None:
    """What was done is said, and that it is not all."""
    name = "tests.support.zoo:hangs"
    options = [f"--report={tmp_path}", f"--regressions={tmp_path}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", EXACT, "-k", "1d-float32", "--time-limit=100"]
    oracles = ["--oracle", "numerical", "--oracle", name]
    with subprocess.Popen(
        [*command, *oracles, *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    ) as run:
        wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob(".asked-*")))
        run.send_signal(killed_by)
        run.wait(timeout=30)
    content = read(tmp_path)
    is_killed = killed_by == signal.SIGKILL
    assert content["state"] == ("running" if is_killed else "interrupted")
    assert content["tests"]["selected"] == 2
    assert content["tests"]["not run"] >= 1
    if is_killed:
        assert "has not ended, or was killed" in content["verdict"]["sentence"]
    else:
        assert [r["reason"] for r in content["verdict"]["reasons"]] == ["interrupted"]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """The run goes on, and says so."""
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "report"
    code, output = run_pytest("--oracle", "numerical", EXACT, "-k", "1d", f"--report={directory}")
    assert code == pytest.ExitCode.OK
    assert "could not be written: " in output
    assert "Not a directory" in output


def test_pictures_without_room(tmp_path: Path, request, monkeypatch) -> None:
    """A full disk costs the folder of a finding, which is then said."""
    report = empty(tmp_path, request)
    report._tally.findings.append(finding())

    def full(path: Path, text: str) -> None:
        if "findings-" in str(path):
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr("tests.support.report.write_atomically", full)
    report.write("finished")
    [found] = read(tmp_path / "report")["findings"]
    assert found["folder"] == "not written: No space left on device"
    assert "No space left on device" in (tmp_path / "report" / "report.html").read_text()


def test_two_runs_in_one_directory(tmp_path: Path, request) -> None:
    """The later report is whole, and its findings are its own; the earlier ones go."""
    first, second = empty(tmp_path, request), empty(tmp_path, request)
    second._run += "-2"
    first._tally.findings.append(finding("wrong in the first run"))
    second._tally.findings.append(finding("wrong in the second run"))
    first.write("finished")
    second.write("finished")
    content = read(tmp_path / "report")
    assert [found["message"] for found in content["findings"]] == ["wrong in the second run"]
    [folder] = (tmp_path / "report").glob("findings-*")
    assert folder.name == f"findings-{content['run']}"
    first.write("running")  # it still goes on: nothing of the other's is taken away
    assert (tmp_path / "report" / f"findings-{content['run']}").exists()


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_red(reason: str, tmp_path: Path, request) -> None:
    """Whatever it is, and it is said in a sentence."""
    report = empty(tmp_path, request)
    if reason == "seen once":
        report._tally.incidents.append("numerical dies once")
    elif reason != "interrupted":
        report._outcomes["test"] = Outcome("failed", 1.0, reason, "words")
    if reason != "nothing asked":
        report._tally.count("numerical").problems = 1
    report.write("interrupted" if reason == "interrupted" else "finished")
    verdict = read(tmp_path / "report")["verdict"]
    assert verdict["colour"] == "red"
    assert reason in [found["reason"] for found in verdict["reasons"]]
    assert verdict["sentence"].startswith(f"Red: {reason} (")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("differs", "disagreement"),
        ("imprecise", "precision"),
        ("crashes", "crash"),
        ("hangs", "crash"),
        ("does not start", "crash"),
        ("raises", "no answer"),
        ("malformed", "no answer"),
    ],
)
def test_the_reason_of_a_verdict(kind: str, reason: str) -> None:
    """Of an exception, or of the worst in a group."""
    problem = finding().problem
    failure = (Disagreement if kind == "differs" else NoAnswer)(Verdict("mine", problem, kind, ""))
    assert reason_of(failure, "drift") == reason
    assert reason_of(ExceptionGroup("", [failure, ValueError()]), "drift") == reason
    assert reason_of(ValueError(), "drift") == "drift"


def test_reasons_of_tests_are_known() -> None:
    """What the tests of the verification are marked with is in the table of reasons."""
    marks = set()
    for path in (ROOT / "tests" / "verification").glob("*.py"):
        marks |= {
            line.split('"')[1]
            for line in path.read_text().splitlines()
            if line.startswith("@pytest.mark.reason(")
        }
    assert marks == {"empty region", "lost power", "drift", "fixed divergence", "contract"}
    assert marks <= set(REASONS)


def test_the_table_of_reasons() -> None:
    """The README has every one, in the same words."""
    readme = (ROOT / "README.md").read_text()
    rows = [f"| {reason} | {words} |" for reason, words in REASONS.items()]
    assert "| reason | meaning |\n|---|---|\n" + "\n".join(rows) in readme


def test_hundreds_of_findings(tmp_path: Path, request) -> None:
    """The page stays small, and opens with three."""
    report = empty(tmp_path, request)
    report._tally.findings += [finding(f"wrong number {number}") for number in range(200)]
    report.write("finished")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<details") >= 200
    assert page.count("<details open") == 3
    assert len(page) < 2_000_000


def test_heat_map() -> None:
    """Rows are all axes but the last; what is right is 0, the worst 4, what is no number 5."""
    errors = {"shape": (2, 2, 3), "elements": [0, 1, 0, 0, 0, 0, 1e-9, 0, None, 0, 0, 0.5]}
    map_ = heat_map("dw", errors)
    assert [row["index"] for row in map_["rows"]] == ["0, 0", "0, 1", "1, 0", "1, 1"]
    levels = [[cell["level"] for cell in row["cells"]] for row in map_["rows"]]
    assert levels == [[0, 4, 0], [0, 0, 0], [1, 0, 5], [0, 0, 4]]
    many = heat_map("dx", {"shape": (100, 2), "elements": [0.0] * 199 + [7.0]})
    assert many["together"] == 3
    assert many["rows"][-1]["cells"][1]["level"] == 4


def test_words_that_are_no_text(tmp_path: Path, request) -> None:
    """Half a character in what an oracle says costs that character, not the report."""
    report = empty(tmp_path, request)
    report._tally.findings.append(finding("wrong \ud800 here"))
    report.write("finished")
    assert report.problem == ""
    assert "wrong ? here" in (tmp_path / "report" / "report.html").read_text()


def test_the_page_escapes_what_it_shows(tmp_path: Path, request) -> None:
    """An oracle cannot write into the page."""
    report = empty(tmp_path, request)
    report._tally.findings.append(finding("<script>alert(1)</script>"))
    page = render("report.html", report.content("finished"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
