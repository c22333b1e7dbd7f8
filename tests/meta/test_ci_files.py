"""The CI files do what the Makefile does, for all that pyproject.toml allows, and nothing else."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from oracles.registry import entries
from tests.meta.test_face import ROOT

GITHUB = (ROOT / ".github" / "workflows" / "verify.yml").read_text()
GITLAB = (ROOT / ".gitlab-ci.yml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[0].split())
VARIABLES = {"NAME", *re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = set(PROJECT["optional-dependencies"]) - {"test", "dev"}
REQUIRED = {entry.name for entry in entries() if entry.required and not entry.ours}
PYTHONS = [line.split()[-1] for line in PROJECT["classifiers"] if re.search(r"3\.\d+$", line)]
CORES = {(PYTHONS[0], "oldest"), (PYTHONS[0], "pinned"), (PYTHONS[-1], "pinned")}
KEPT = "report/\ntests/regressions/\n"
SUMMARY = "make --silent summary"


def wrong_command(line: str) -> str | None:
    """What is wrong with a step; None if it is a target of the Makefile, with its variables."""
    make, *words = shlex.split(line.removesuffix(' >> "$GITHUB_STEP_SUMMARY"'))
    variables = {word.partition("=")[0] for word in words if "=" in word}
    targets = {word for word in words if "=" not in word and word != "--silent"}
    if make != "make" or not targets <= TARGETS or not variables <= VARIABLES:
        return f"{line!r}: must be a target of the Makefile, with its variables"
    return None


def combinations(matrix: Mapping[str, Any]) -> list[dict[str, str]]:
    """The variables of each job that a matrix makes; of all in it, or of those it includes."""
    if "include" in matrix:
        return list(matrix["include"])
    lists = [value if isinstance(value, list) else [value] for value in matrix.values()]
    return [dict(zip(matrix, values)) for values in itertools.product(*lists)]


def filled(line: str, variable: str, values: Mapping[str, str]) -> str:
    """The line with the values of a job in the place of its variables."""
    return re.sub(variable, lambda of: values[of[1]], line)


def wrong_coverage(jobs: Mapping[str, list[dict[str, str]]]) -> Iterator[str]:
    """What the jobs leave out, of Pythons and NumPys and of frameworks."""
    cores = {(job["python"], job["pins"]) for job in jobs["core"]}
    if not cores >= CORES:
        yield f"core: lacks {sorted(CORES - cores)}"
    for name in ("oracle", "nightly"):
        asked = {job["name"] for job in jobs[name]}
        if not REQUIRED <= asked <= EXTRAS:
            yield (
                f"{name}: must be of {sorted(EXTRAS)}, {sorted(REQUIRED)} at least, "
                f"not {sorted(asked)}"
            )
    if {job["upstream"] for job in jobs["nightly"]} != {"newest", "prerelease"}:
        yield "nightly: must be of the newest releases and of pre-releases"


def wrong_in_github(text: str) -> list[str]:
    """What is wrong with a workflow."""
    content = yaml.safe_load(text)
    pinned = r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    wrong = [
        f"{line.strip()}: must be pinned by 40 hexadecimal digits, with the version behind"
        for line in text.splitlines()
        if "uses:" in line and not re.search(f"{pinned}$", line)
    ]
    if content.get("permissions") != {"contents": "read"}:
        wrong.append("permissions: must be contents: read")
    jobs = {}
    for name, job in content["jobs"].items():
        if "permissions" in job:
            wrong.append(f"{name}: has permissions of its own")
        jobs[name] = combinations(job.get("strategy", {}).get("matrix", {}))
        runs = [step["run"] for step in job["steps"] if "run" in step]
        for run, values in itertools.product(runs, jobs[name] or [{}]):
            wrong += filter(
                None, [wrong_command(filled(run, r"\$\{\{ matrix\.(\w+) \}\}", values))]
            )
        if name != "lint":
            wrong += [f"{name}: {words}" for words in wrong_steps(job["steps"])]
    return wrong + list(wrong_coverage(jobs))


def wrong_steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    """What a job does not keep if it is red."""
    always = [step for step in steps if step.get("if") == "always()"]
    if f'{SUMMARY} >> "$GITHUB_STEP_SUMMARY"' not in [step.get("run") for step in always]:
        yield "must always show its summary"
    if KEPT not in [step.get("with", {}).get("path") for step in always]:
        yield "must always upload the report and the counterexamples"


def wrong_in_gitlab(text: str) -> list[str]:
    """What is wrong with a pipeline."""
    content = yaml.safe_load(text)
    wrong, jobs = [], {}
    for name, own in content.items():
        if name.startswith(".") or name == "workflow":
            continue
        job: dict[str, Any] = {}
        for base in (
            own.get("extends", ()) if isinstance(own["extends"], list) else [own["extends"]]
        ):
            job |= content[base]
        job |= own
        matrix = job.get("parallel", {}).get("matrix", [])
        every = [values for part in matrix for values in combinations(part)]
        for line, values in itertools.product(job["script"], every or [{}]):
            wrong += filter(None, [wrong_command(filled(line, r"\$(\w+)", values))])
        names = {"PYTHON_VERSION": "python", "PINS": "pins", "NAME": "name", "UPSTREAM": "upstream"}
        jobs[name] = [{names[key]: value for key, value in values.items()} for values in every]
        if name != "lint":
            kept = job.get("artifacts", {})
            if (kept.get("when"), kept.get("paths")) != ("always", KEPT.split()):
                wrong.append(f"{name}: must always keep the report and the counterexamples")
            if kept.get("reports") != {"junit": "report/junit.xml"}:
                wrong.append(f"{name}: must hand JUnit over")
            if job.get("after_script") != [SUMMARY]:
                wrong.append(f"{name}: must always show its summary")
    return wrong + list(wrong_coverage(jobs))


def test_the_files_are_right() -> None:
    """Both of them."""
    assert wrong_in_github(GITHUB) == []
    assert wrong_in_gitlab(GITLAB) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("- run: make lint", "- run: ruff check .", "must be a target of the Makefile"),
        ("- run: make lint", "- run: make lnt", "must be a target of the Makefile"),
        ("make core PINS=", "make core PIN=", "must be a target of the Makefile"),
        ("@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6", "must be pinned"),
        (" # v6.2.0", "", "with the version behind"),
        ("contents: read", "contents: write", "permissions: must be contents: read"),
        ("  lint:\n", "  lint:\n    permissions: write-all\n", "permissions of its own"),
        ('python: "3.11", pins: oldest', 'python: "3.12", pins: oldest', "core: lacks"),
        ('python: "3.13", pins: pinned', 'python: "3.12", pins: pinned', "core: lacks"),
        ("pytorch, ", "", "oracle: must be of"),
        ("scipy, ", "scypy, ", "oracle: must be of"),
        ("upstream: [newest, prerelease]", "upstream: [newest]", "pre-releases"),
        ("- if: always()\n        run: make", "- run: make", "must always show its summary"),
        ("if: always()\n        uses", "uses", "must always upload"),
        ("            tests/regressions/\n", "", "must always upload"),
    ],
)
def test_a_workflow_can_be_wrong(old: str, new: str, words: str) -> None:
    """Each thing that it must not be is found."""
    assert old in GITHUB
    assert words in "\n".join(wrong_in_github(GITHUB.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("- make lint", "- mypy", "must be a target of the Makefile"),
        ("make oracle NAME=$NAME", "make oracles NAME=$NAME", "must be a target"),
        ("PINS: [oldest, pinned]", "PINS: [pinned]", "core: lacks"),
        ("pytorch, ", "", "oracle: must be of"),
        ("scipy, ", "scypy, ", "oracle: must be of"),
        ("when: always", "when: on_success", "must always keep"),
        ("junit: report/junit.xml", "junit: junit.xml", "must hand JUnit over"),
        ("- make --silent summary", "- make summary", "must always show its summary"),
    ],
)
def test_a_pipeline_can_be_wrong(old: str, new: str, words: str) -> None:
    """Each thing that it must not be is found."""
    assert old in GITLAB
    assert words in "\n".join(wrong_in_gitlab(GITLAB.replace(old, new)))


def test_what_they_are_held_against() -> None:
    """pyproject.toml's Pythons begin where it says, and each framework has an extra of its name."""
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert {entry.name for entry in entries() if not entry.ours} == EXTRAS
    for entry in entries():
        extra = " ".join(PROJECT["optional-dependencies"].get(entry.name, []))
        assert set(getattr(entry.oracle, "installs", "").split()) <= set(re.findall(r"\w+", extra))


def test_no_host_is_named() -> None:
    """Where packages come from is said by whoever runs them."""
    for text in (GITHUB, GITLAB, MAKEFILE, (ROOT / ".ci" / "install").read_text()):
        assert "://" not in text


def test_a_summary_is_printed(tmp_path: Path) -> None:
    """Of the last report, or that there is none; never an error."""
    command = ["make", "--silent", "-f", ROOT / "Makefile", "summary"]

    def printed() -> str:
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert printed() == "No report was written.\n"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.md").write_text("**Green**\n")
    assert printed() == "**Green**\n"


STUB = """#!/bin/sh
[ "$1" = - ] && exec {python} "$@"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; fi
echo "$@"
for argument; do case $argument in */constraints.txt | */upgraded.txt) cat "$argument" ;; esac; done
"""


def install(pins: str, extras: str, tmp_path: Path) -> tuple[int, str]:
    """Exit code of .ci/install, and what it has pip do, in a Python in which pip only says it."""
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    venv = {"PYTHON": str(stub), "VENV": str(tmp_path / "venv"), "EXTRAS": extras}
    done = subprocess.run(
        [ROOT / ".ci" / "install", pins],
        env={**os.environ, **venv},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("pins", "there", "absent"),
    [
        ("pinned", ["pytest==", "torch==", "-e .[pytorch,test]"], ["numpy==2.1.3", "--pre"]),
        ("oldest", ["pytest==", "numpy==2.1.3\n", "ml_dtypes==0.5\n"], ["upgraded.txt"]),
        ("unpinned", ["-e .[pytorch,test]"], ["==", "upgraded.txt"]),
        ("newest", ["--upgrade -r", "\ntorch\n"], ["==", "--pre"]),
        ("prerelease", ["--pre --upgrade -r", "\ntorch\n"], ["=="]),
    ],
)
def test_what_is_installed(pins: str, there: list[str], absent: list[str], tmp_path: Path) -> None:
    """Pinned, or with the oldest that is allowed, or the newest, or whatever upstream has."""
    code, output = install(pins, "pytorch,test", tmp_path)
    assert code == 0, output
    assert [words for words in there if words not in output] == []
    assert [words for words in absent if words in output] == []


def test_pins_that_are_none(tmp_path: Path) -> None:
    """A word that is misspelt is an error that lists the known ones."""
    code, output = install("olddest", "test", tmp_path)
    assert code != 0
    assert "must be one of pinned, oldest, unpinned, newest, prerelease" in output


def test_an_oracle_without_a_name() -> None:
    """The error says how to give one."""
    done = subprocess.run(["make", "oracle"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NAME is missing: make oracle NAME=pytorch" in done.stderr


def test_the_hook() -> None:
    """The example names it; it runs a file that is there, with options that certify has."""
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    [repository] = yaml.safe_load((ROOT / "docs" / "pre-commit-config.yaml").read_text())["repos"]
    assert [used["id"] for used in repository["hooks"]] == [hook["id"]]
    assert os.access(ROOT / hook["entry"], os.X_OK)
    command = [sys.executable, "-m", "oracles", "certify", *hook["args"], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(option.partition("=")[0] in done.stdout for option in hook["args"])


def test_the_hook_asks_for_each_file(tmp_path: Path) -> None:
    """Under the committer's python3, with a certificate in .git; one that is wrong is enough."""
    beside = tmp_path / "verifier"
    theirs = tmp_path / "theirs"
    ours = beside / ".venvs" / "core-pinned-python3" / "bin"
    for directory in (beside / ".ci", ours, theirs):
        directory.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "certify", beside / ".ci")
    answers = {theirs / "make": "", theirs / "python3": "", ours / "python": 'echo "$@"'}
    for path, answer in answers.items():
        path.write_text(f"#!/bin/sh\n{answer}\n")
        path.chmod(0o755)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [beside / ".ci" / "certify", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{theirs}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    asked = "-m oracles certify {0}@{1}/python3 --no-power --output .git/certificates/{0}"
    assert run("--no-power", "a.py", "b/c.py") == (
        0, [asked.format(name, theirs) for name in ("a.py", "b/c.py")]
    )  # fmt: skip
    (ours / "python").write_text("#!/bin/sh\ncase $4 in a.py*) exit 1;; esac\n")
    assert run("b.py") == (0, [])
    assert run("a.py", "b.py") == (1, [])
