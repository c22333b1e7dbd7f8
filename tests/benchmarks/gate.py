"""Each reason for red, provoked by a run of pytest as a user makes it: verdict and exit code.

`python -m tests.benchmarks.gate` prints them; `--write docs/gate.md` writes the page, with three
pull requests that break something and what their authors see.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.regressions import write_atomically

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
    return found[1].strip() if found else ""


FASTCONV = """\
import numpy as np


def backward(x, w, dy, stride, padding, dilation):
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    for tap in np.ndindex(w.shape[:2]):
        here = _cells(tap, dy.shape[1:3], stride, dilation)
        dw[tap] = _product(padded[here].reshape(-1, x.shape[-1]).T, dy.reshape(-1, dy.shape[-1]))
        dx[here] += dy @ w[tap].T
    (top, _), (left, _) = padding
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dw, dy.sum((0, 1, 2))


def _cells(tap, outs, stride, dilation):
    starts = [k * d for k, d in zip(tap, dilation)]
    along = zip(starts, outs, stride)
    return (slice(None), *(slice(b, b + (o - 1) * s + 1, s) for b, o, s in along))


def _product(x, dy):
    return (x.astype("float64") @ dy.astype("float64")).astype(x.dtype)
"""
LESS_EXACT = FASTCONV.replace(
    'return (x.astype("float64") @ dy.astype("float64")).astype(x.dtype)', "return x @ dy"
)
CRASHES = (
    FASTCONV.replace("import numpy as np\n", "import ctypes\n\nimport numpy as np\n").replace(
        "    for tap in np.ndindex(w.shape[:2]):\n",
        "    if max(dilation) > 1:\n"
        "        ctypes.memset(_workspace(w.shape), 0, w.nbytes)\n"
        "    for tap in np.ndindex(w.shape[:2]):\n",
    )
    + """

_memory = np.empty(1 << 24, "uint8")


def _workspace(shape):
    return _memory.ctypes.data if shape[2] > 1 else None
"""
)
ORACLE = """\
from fastconv import backward

from oracles import oracle


@oracle(ranks=(2,), dtypes=("float32",), groups=("one",), distribution="fastconv")
def kernel(x, w, dy, stride, padding, dilation, groups):
    return backward(x, w, dy, stride, padding, dilation)
"""
WINDOWS = "reference/windows.py"
PADDING = """\
            padding = (last - output, output + len(inputs) - outputs)
"""
OTHER_PADDING = """\
            padding = (output + len(inputs) - outputs, last - output)
"""


@dataclass(frozen=True)
class PullRequest:
    """A change that breaks something: the files before and after it, and what CI runs.

    `told` introduces it; `verdict` and `finds` are what must be said. `library` is the code of a
    made-up distribution under the two `versions`; without one it is this project that is changed.
    """

    title: str
    told: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    arguments: Sequence[str]
    verdict: str
    finds: str
    library: tuple[str, str] = ("", "")
    versions: tuple[str, str] = ("", "")


def _of_fastconv(
    new: str, version: str, title: str, told: str, verdict: str, finds: str
) -> PullRequest:
    return PullRequest(
        title,
        told,
        {"requirements.txt": "fastconv==1.4\n"},
        {"requirements.txt": f"fastconv=={version}\n"},
        (
            *("$VERIFIER/tests/verification", "-x", "-k", "kernel.py", "--oracle", "kernel.py"),
            *("--baseline", "baseline.json", "--regressions", "kept", "--report", "report"),
        ),
        verdict,
        finds,
        (FASTCONV, new),
        ("1.4", version),
    )


PULL_REQUESTS = (
    PullRequest(
        "A wrong reference",
        "The padding that dy needs for dX, its two sides exchanged. Where an axis is padded\n"
        "alike on both, nothing changes.",
        {WINDOWS: PADDING},
        {WINDOWS: OTHER_PADDING},
        (
            *("tests/verification", "-x", "-k", "numerical", "--oracle", "numerical"),
            *("--regressions", "kept", "--report", "report"),
        ),
        "disagreement (1)",
        "reference dx[",
    ),
    _of_fastconv(
        LESS_EXACT,
        "1.5",
        "An upgrade that loses precision",
        "A project has its kernels from a distribution, here made up: `fastconv`. Its `kernel.py`\n"
        "makes an oracle of them; `baseline.json` was written by `--update-baseline` under 1.4,\n"
        "which summed dW in float64. 1.5 sums in float32: faster, and within every bound.",
        "drift (1)",
        "kernel.py float32 2-D dw",
    ),
    _of_fastconv(
        CRASHES,
        "1.6",
        "A framework that starts to crash",
        "The same project. 1.6 takes a workspace for dilated kernels, which is a null pointer\n"
        "where there is one channel.",
        "crash (1)",
        "in common: C == 1 and max(dilation) >= 2 (",
    ),
)


def open_pull_request(request: PullRequest, directory: Path) -> tuple[int, str, str]:
    """Exit code, output and summary.md of what CI runs for it, in `directory`, which is empty."""
    tree, site = directory / "tree", directory / "site"
    environment = {"PYTHONPATH": str(site)}
    if request.versions[0]:
        tree.mkdir()
        (tree / "kernel.py").write_text(ORACLE)
        _install(site, request.library[0], request.versions[0])
        code, output = _ci((*request.arguments, "--update-baseline"), tree, environment)
        if code:
            raise RuntimeError(f"before {request.title!r} the run exits with {code}:\n{output}")
        shutil.rmtree(tree / "report")
        shutil.rmtree(site)
        _install(site, request.library[1], request.versions[1])
    else:
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "report", "*.egg-info"))
        [(name, old)], [new] = request.before.items(), request.after.values()
        text = (tree / name).read_text()
        if text.count(old) != 1:
            raise RuntimeError(f"{name} has changed: it has no more {old!r}")
        (tree / name).write_text(text.replace(old, new))
    code, output = _ci(request.arguments, tree, environment)
    return code, output, (tree / "report" / "summary.md").read_text()


def _ci(arguments: Iterable[str], tree: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    filled = (argument.replace("$VERIFIER", str(ROOT)) for argument in arguments)
    return run(filled, tree / "kept", tree, environment)


def _install(site: Path, code: str, version: str) -> None:
    about = site / f"fastconv-{version}.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text(f"Metadata-Version: 2.1\nName: fastconv\nVersion: {version}\n")
    (site / "fastconv.py").write_text(code)


def diff(name: str, old: str, new: str) -> str:
    """What a pull request shows of one file, without the lines around it."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    changed = (line for line in list(lines)[2:] if not line.startswith("@@"))
    return "\n".join((f"--- {name}", *changed))


def diffs(request: PullRequest) -> str:
    """All that is changed: by the pull request, and by the library, if there is one."""
    [(name, old)], [new] = request.before.items(), request.after.values()
    parts = [diff(name, old, new)]
    if request.versions[0]:
        parts.append(diff(f"fastconv {request.versions[1]}", *request.library))
    return "\n".join(parts)


def masked(text: str) -> str:
    """Without numbers and directories, which are others each time."""
    return re.sub(r"\d[\d,.]*", "0", re.sub(r"(?:/[\w.-]+)+/(?=[\w.-])", "", text))


def section(request: PullRequest, code: int, output: str, summary: str) -> str:
    """What the page says of one pull request."""
    command = " ".join(("pytest", *request.arguments))
    summary = re.sub(r", in \d+ s on .*", ".", summary, flags=re.DOTALL)
    return f"""\
## {request.title}

{request.told}

```diff
{diffs(request)}
```

    {command}

Exit code {code}, and at the end of the log:

```
{verdict_of(output)}
```

In the pull request, from `report/summary.md`:

{_quoted(summary)}
"""


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


HEAD = """\
# The gate: what the author of a pull request sees

Three pull requests that break something, and each reason for red, provoked. The page is written by
`.venv/bin/python -m tests.benchmarks.gate --write docs/gate.md`; the tests make all of it again and
compare the verdicts. What options, reasons and codes mean: [README](../README.md#as-a-ci-gate).
"""
TABLE = """\
## Each reason for red

| what is wrong | pytest ... | exit code | verdict |
|---|---|---|---|
"""


def row(case: Case, code: int, output: str) -> str:
    """What the page says of one reason."""
    settings = (f"{name}={value}" for name, value in case.environment.items())
    short = (word.replace("{directory}/", "") for word in (*settings, *case.arguments))
    command = shlex.join(short).replace("tests/verification/", "")
    return f"| {case.what} | `{command}` | {code} | {verdict_of(output).splitlines()[0]} |"


def page() -> str:
    """All of it."""
    parts = [HEAD]
    for request in PULL_REQUESTS:
        with tempfile.TemporaryDirectory() as directory:
            parts.append(section(request, *open_pull_request(request, Path(directory))))
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(row(case, *provoke(case, Path(directory))))
    return "\n".join((*parts, TABLE + "\n".join(rows) + "\n"))


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", metavar="FILE", type=Path)
    into = parser.parse_args().write
    text = page()
    if into is None:
        print(text)
    else:
        write_atomically(into, text)


if __name__ == "__main__":
    main()
