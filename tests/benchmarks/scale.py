"""`python -m tests.benchmarks.scale`: docs/scale.md, what a second process of pytest-xdist gains.

Runs as a user makes them, with one process and with two, one after the other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.speed import table
from tests.support.regressions import write_atomically

COMMAND = "python -m tests.benchmarks.scale"
ROOT = Path(__file__).resolve().parents[2]
CI = ("--hypothesis-profile", "ci")
FRAMEWORKS = ("--oracle", "pytorch", "--oracle", "tensorflow")
RUNS = {
    "all of verification, both frameworks": ("tests/verification", *FRAMEWORKS, *CI),
    "random problems of both frameworks only": (
        "tests/verification/test_oracles.py",
        *FRAMEWORKS,
        *("--problems", "400"),
    ),
}
PROCESSES = {0: (), 2: ("--dist", "worksteal")}
HEADS = ("run", "`-n`", "problems", "seconds", "problems/s", "against `-n 0`", "cores busy")


class Run(NamedTuple):
    """Of one run: its verdict's problems, seconds, and seconds of all its processes' cores."""

    problems: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Problems per second."""
        return self.problems / self.seconds


def measure(processes: int, arguments: Sequence[str]) -> Run:
    """Run pytest; raises RuntimeError with what it says unless that is green."""
    options = ("-q", "-p", "no:cacheprovider", "-n", str(processes), *PROCESSES[processes])
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    cpu, start = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu
    found = re.search(r"Green: ([\d,]+) problems", done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"-n {processes} {' '.join(arguments)}:\n{done.stdout[-4000:]}")
    return Run(int(found[1].replace(",", "")), seconds, cpu_seconds)


def _cpu_seconds() -> float:
    """Of all processes that have ended, and of those that they have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(found: Mapping[str, Mapping[int, Run]]) -> str:
    """docs/scale.md."""
    lines = [
        [
            what,
            str(processes),
            f"{run.problems:,}",
            f"{run.seconds:.0f}",
            f"{run.rate:.0f}",
            f"{run.rate / runs[0].rate:.2f}",
            f"{run.cpu_seconds / run.seconds:.2f}",
        ]
        for what, runs in found.items()
        for processes, run in runs.items()
    ]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("pytest", "pytest-xdist")
    )
    made = f"Made by `{COMMAND}` with {versions} on {os.cpu_count()} cores."
    return "\n\n".join([_LEGEND, made, table(HEADS, lines)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the page and write it."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="one process of pytest against two")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="a directory")
    given = parser.parse_args(arguments)
    found: dict[str, dict[int, Run]] = {}
    for what, options in RUNS.items():
        found[what] = {}
        for processes in PROCESSES:
            print(f"-n {processes}: {what}", file=sys.stderr)
            found[what][processes] = measure(processes, options)
    text = report(found)
    write_atomically(given.to / "scale.md", text)
    print(text)


_LEGEND = """\
# One process and two

What a second process of pytest-xdist (`-n 2`) gains on two cores. Each process has oracles of its
own, in processes of theirs; the verdict is one, with all counts, regions and findings.

While an oracle computes, pytest draws the next problem and works out what is right for the one in
hand. So one process keeps more than one core busy where frameworks are asked ("cores busy": seconds
of processor time a second), and two are faster by what is left of the second core, less a second
import of the frameworks. Tests that ask no framework leave one core idle with one process."""


if __name__ == "__main__":
    main()
