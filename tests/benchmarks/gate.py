"""Each reason for red, provoked by a run of pytest as a user makes it: verdict and exit code.

`python -m tests.benchmarks.gate` prints them; `--write docs/gate.md` writes the page, with three
pull requests that break something and what their authors see.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ORACLES = "tests/verification/test_oracles.py"
EXACT = f"{ORACLES}::test_exact"
REGION = "tests/verification/test_coverage.py::test_every_region"
DRIFT = "tests/verification/test_precision.py::test_drift"
_TIME_LIMIT = 300  # seconds for one run


ZOO = "tests.support.zoo"
ONE_CELL = (EXACT, "-k", "1d-float32")

# Plugins, each of which breaks one thing; `-p broken` loads it.
FIXED_DEFECT = """
from oracles import divergences

SCRIPT = {directory!r} + "/script.py"
with open(SCRIPT, "w") as file:
    file.write("print('not reproduced')")
divergences.LEDGER = (
    divergences.Divergence(
        "gone", "numerical", "", lambda problem: True, "crash", "why", "not found upstream", SCRIPT
    ),
)
"""
UNREACHED_REGION = """
from tests.support import classes

others = dict(classes.REGIONS)
others["batch above 65,536"] = others["bias"]  # what is drawn for it lies elsewhere
classes.REGIONS = others
"""
NO_FAULT = """
from oracles.protocol import Box, Domain
from tests.support import mutants
from tests.support.mutants import db
from tests.support.mutants.fault import Mutant

db.harmless = Mutant(
    "harmless", db.__name__, "nothing", lambda problem, right: right,
    domain=Domain(Box(ranks=(1,), dtypes=("float32",))),
)
mutants._EVERY["harmless"] = db.harmless
mutants.MUTANTS = {"harmless": db.harmless}
"""
OWN_TEST = """
def test_the_sky():
    assert "blue" == "green"
"""


@dataclass(frozen=True)
class Case:
    """A run that is red: `what` is wrong, the arguments of pytest, what the verdict begins with.

    `files` are written into a directory of its own, on PYTHONPATH, which is put in the place of
    "{directory}" everywhere. A run with the arguments `before` goes before it. `interrupts` says
    that Ctrl-C is pressed while an oracle is asked.
    """

    reason: str
    what: str
    arguments: Sequence[str]
    red: str
    code: int = 1
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    interrupts: bool = False


CASES = (
    Case(
        "disagreement",
        "a kernel that is not flipped for dX",
        ("--oracle", "tests.support.mutants.dx:dx_kernel_not_flipped", EXACT, "-k", "2d-float32"),
        "disagreement (1)",
    ),
    Case(
        "crash",
        "a segfault on strides of 2",
        ("--oracle", f"{ZOO}:segfaults_on_stride_2", *ONE_CELL),
        "crash (1)",
    ),
    Case(
        "crash",
        "an oracle that never comes up",
        ("--oracle", f"{ZOO}:exits_during_import", *ONE_CELL),
        "crash (1)",
    ),
    Case(
        "no answer",
        "an exception",
        ("--oracle", f"{ZOO}:raises", *ONE_CELL),
        "no answer (1)",
    ),
    Case(
        "seen once",
        "a segfault that does not come again",
        ("--oracle", f"{ZOO}:segfaults_once", *ONE_CELL),
        "seen once (1)",
        files={"once": ""},
        environment={"ONCE": "{directory}/once"},
    ),
    Case(
        "precision",
        "inputs rounded to TF32",
        (
            "--oracle",
            "tests.support.lossy:tf32_inputs",
            "tests/verification/test_precision.py::test_effective_precision",
            "-k",
            "2d",
        ),
        "precision (1)",
    ),
    Case(
        "drift",
        "errors four times as large as in the baseline, within their bounds",
        (
            *("--oracle", f"{ZOO}:errors_grow", DRIFT, "-k", "1d-float32"),
            "--baseline={directory}/baseline.json",
        ),
        "drift (1)",
        environment={"ERRORS": "4"},
        before=(
            *("--oracle", f"{ZOO}:errors_grow", DRIFT, "-k", "1d-float32", "--update-baseline"),
            "--baseline={directory}/baseline.json",
        ),
    ),
    Case(
        "fixed divergence",
        "a record in the ledger whose defect is gone",
        (
            *("-p", "broken", "--oracle", "numerical"),
            "tests/verification/test_ledger.py::test_defects_are_still_there",
        ),
        "fixed divergence (1)",
        files={"broken.py": FIXED_DEFECT},
    ),
    Case(
        "empty region",
        "a region that is not reached any more",
        ("-p", "broken", "--oracle", "tests.support.lossy:fourier", REGION),
        "empty region (1)",
        files={"broken.py": UNREACHED_REGION},
    ),
    Case(
        "lost power",
        "a planted fault that nothing shows",
        (
            *("-p", "broken", "--oracle", "numerical", "--problems=1"),
            "tests/verification/test_power.py",
        ),
        "lost power (1)",
        files={"broken.py": NO_FAULT},
    ),
    Case(
        "contract",
        "an oracle that writes to its inputs",
        (
            *("--oracle", f"{ZOO}:writes_to_its_inputs", "-k", "keeps_its_inputs"),
            "tests/verification/test_conformance.py",
        ),
        "contract (1)",
    ),
    Case(
        "test",
        "a test of one's own beside those of an oracle",
        (
            "--oracle",
            "numerical",
            EXACT,
            "{directory}/test_own.py",
            "-k",
            "sky or 1d-float32",
        ),
        "test (1)",
        files={"test_own.py": OWN_TEST},
    ),
    Case(
        "cut",
        "a budget that is spent before the kept counterexamples",
        ("--oracle", "numerical", "tests/verification/test_kept.py", EXACT, "--budget=0.01s"),
        "cut (1)",
    ),
    Case(
        "too few",
        "fewer problems than --minimum-problems",
        ("--oracle", "numerical", *ONE_CELL, "--minimum-problems=1000"),
        "too few (1)",
    ),
    Case(
        "nothing asked",
        "a selection that leaves a required oracle out",
        (
            *("--oracle", "numerical", "--require-oracles", "-k", "zero_batch"),
            "tests/verification/test_reference.py",
        ),
        "nothing asked (1)",
    ),
    Case(
        "interrupted",
        "Ctrl-C",
        ("--oracle", f"{ZOO}:hangs", *ONE_CELL, "--time-limit=100"),
        "interrupted (1)",
        code=2,
        interrupts=True,
    ),
)


def provoke(case: Case, directory: Path) -> tuple[int, str]:
    """Exit code and output of the run of `case`, whose files are written into `directory`."""

    def filled(text: str) -> str:
        return text.replace("{directory!r}", repr(str(directory))).replace(
            "{directory}", str(directory)
        )

    for name, content in case.files.items():
        (directory / name).write_text(filled(content))
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    environment = {name: filled(value) for name, value in case.environment.items()}
    if case.before:
        code, output = run(map(filled, case.before), directory, ROOT, {})
        if code:
            raise RuntimeError(f"the run before {case.what!r} exits with {code}:\n{output}")
    environment["PYTHONPATH"] = path
    return run(map(filled, case.arguments), directory, ROOT, environment, case.interrupts)


def run(
    arguments: Iterable[str],
    regressions: Path,
    tree: Path,
    environment: Mapping[str, str],
    interrupts: bool = False,
) -> tuple[int, str]:
    """Exit code and output of pytest in `tree`, as on nobody's terminal and nobody's CI."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    options = ["-p", "no:cacheprovider", f"--regressions={regressions}", "--hypothesis-seed=0"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=tree,
        env={**inherited, "HYPOTHESIS_STORAGE_DIRECTORY": str(regressions), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heed_interrupts,
    ) as process:
        if interrupts:
            _interrupt(process, regressions)
        try:
            output, _ = process.communicate(timeout=_TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, output


def _interrupt(process: subprocess.Popen[str], regressions: Path) -> None:
    """Press Ctrl-C when an oracle is being asked, or let it end by itself."""
    while process.poll() is None:
        if any(path.stat().st_size for path in regressions.glob(".asked-*")):
            process.send_signal(signal.SIGINT)
            return
        time.sleep(0.05)


def _heed_interrupts() -> None:
    """Do not ignore Ctrl-C, as a job does that a shell has put in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def verdict_of(output: str) -> str:
    """The section "verdict": the sentence, and the lines that belong to it; "" if there is none."""
    section = r"^=+ verdict =+\n(.*?)(?=^report: |^the report |^!+ |^=+ |\Z)"
    found = re.search(section, output, re.DOTALL | re.MULTILINE)
    return found[1].rstrip() if found else ""


def main() -> None:
    """Print each red reason, its verdict and its exit code."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            code, output = provoke(case, Path(directory))
            seconds = time.perf_counter() - start
            print(f"{case.reason}: {case.what}: exit code {code}, {seconds:.1f} s")
            print(verdict_of(output) or output)


if __name__ == "__main__":
    main()
