"""Every reason for red, provoked as a user would: exit code, verdict and report."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.benchmarks.gate import (
    CASES,
    PULL_REQUESTS,
    Case,
    PullRequest,
    masked,
    open_pull_request,
    provoke,
    row,
    section,
    verdict_of,
)
from tests.meta.test_face import EXACT, ROOT, run_pytest
from tests.meta.test_report import SCHEMA
from tests.support.mutants import oracle_name
from tests.support.report import REASONS

PAGE = ROOT / "docs" / "gate.md"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_red(case: Case, tmp_path: Path) -> None:
    """The sentence begins with the reason, whose meaning stands below it."""
    code, output = provoke(case, tmp_path)
    assert code == case.code, output
    sentence, *lines = verdict_of(output).splitlines()
    assert re.match(rf"Red: {re.escape(case.reason)} \(1\)\.( |$)", sentence), output
    assert any(line.startswith(f"  {case.reason}: {REASONS[case.reason]}") for line in lines)
    assert masked(row(case, code, output)) in masked(PAGE.read_text())


def test_every_reason_is_provoked() -> None:
    """There is a run for each."""
    assert {case.reason for case in CASES} == set(REASONS)


@pytest.mark.parametrize("request_", PULL_REQUESTS, ids=lambda request: request.title)
def test_a_pull_request(request_: PullRequest, tmp_path: Path) -> None:
    """It comes to what the page says: command, exit code, verdict, and the words of the summary."""
    code, output, summary = open_pull_request(request_, tmp_path)
    assert code == 1
    assert verdict_of(output).startswith(f"Red: {request_.verdict}. ")
    assert request_.finds in summary
    told, *_ = section(request_, code, output, summary).partition("In the pull request")
    assert masked(told) in masked(PAGE.read_text())


def test_a_kept_counterexample_that_is_wrong_again(tmp_path: Path) -> None:
    """It is a subtest, and none the less a disagreement: not "another test"."""
    name = oracle_name("dx_kernel_not_flipped")
    kept = f"--regressions={tmp_path}"
    run_pytest("--oracle", name, EXACT, "-k", "1d-float32", kept)
    code, output = run_pytest("--oracle", name, "tests/verification/test_kept.py", kept)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert verdict_of(output).startswith("Red: disagreement (1). ")


def test_an_oracle_that_never_came_up_is_in_the_report(tmp_path: Path) -> None:
    """As a finding, with what its process came to."""
    name = "tests.support.zoo:exits_during_import"
    code, _ = run_pytest("--oracle", name, EXACT, "-k", "1d-float32", f"--report={tmp_path}")
    assert code == pytest.ExitCode.TESTS_FAILED
    content = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    [found] = content["findings"]
    assert found["kind"] == "does not start"
    assert found["message"].startswith(f"{name} does not start")
    assert "Red: crash (1)" in (tmp_path / "summary.md").read_text()


def test_what_is_asked_without_a_verdict_is_asked(tmp_path: Path) -> None:
    """Probes and the contract alone make a green run, not one in which nothing was asked."""
    tests = "tests/verification/test_precision.py::test_effective_precision"
    arguments = ("--oracle", "numerical", tests, "-k", "1d-float32", "--require-oracles")
    code, output = run_pytest(*arguments, f"--report={tmp_path}")
    assert code == pytest.ExitCode.OK
    assert verdict_of(output) == "Green: All tests pass."


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The verdict and the exit code are as they are, and what is missing is said."""
    name, directory = oracle_name("dx_kernel_not_flipped"), tmp_path / "report"
    options = ["-p", "no:cacheprovider", f"--regressions={tmp_path}", f"--report={directory}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--oracle", name, EXACT, "-k", "1d-float32"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "Red: disagreement (1). " in done.stdout
    assert f"the report could not be written: {directory / 'report.json'}: File too" in done.stdout
    assert "Red: disagreement (1). " in (directory / "summary.md").read_text()  # is small
