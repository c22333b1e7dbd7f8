"""Runs the scripts of tests/findings: does the defect still show, and what does it say?

`python -m tests.support.findings` (`make findings`) runs them all and prints what each one says.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[1] / "findings"
TIME_LIMIT = 120  # seconds for one script


@dataclass(frozen=True)
class Finding:
    """What a script said: whether the defect shows, and its words."""

    shows: bool
    words: str


def scripts(directory: Path = DIRECTORY) -> list[Path]:
    """All scripts, in a fixed order."""
    return sorted(directory.glob("[!_]*.py"))


def run_script(
    path: Path, python: str = sys.executable, environment: Mapping[str, str] | None = None
) -> Finding:
    """Run one script in a process of its own, in an environment with nothing but `environment`.

    It shows its defect by printing a line "DEFECT: ...", by dying of a signal or by hanging; it
    says "not reproduced" if the defect is absent; anything else is an error in the script. Raises
    AssertionError for that.
    """
    inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    try:
        done = subprocess.run(
            [python, str(path)],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
            env={**inherited, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Finding(True, f"hangs for {TIME_LIMIT} s")
    if done.returncode < 0:
        check = re.findall(r"Check failed: .*", done.stderr)
        words = f"dies of {signal.Signals(-done.returncode).name}"
        return Finding(True, f"{words}: {check[-1]}" if check else words)
    if done.returncode == 1 and (defect := re.search(r"^DEFECT: .*", done.stdout, re.MULTILINE)):
        return Finding(True, defect[0])
    if done.returncode == 0 and "not reproduced" in done.stdout:
        return Finding(False, "not reproduced")
    raise AssertionError(f"{path.name} is broken: it exits with {done.returncode}\n{done.stderr}")


def main() -> int:
    """Run every script whose framework is installed; 1 if one of them is broken."""
    broken = 0
    for path in scripts():
        try:
            _version(path)
            words = run_script(path).words
        except importlib.metadata.PackageNotFoundError:
            words = "its framework is not installed"
        except AssertionError as error:
            words, broken = str(error), 1
        print(f"{path.name}\n    {words}", flush=True)
    return broken


def _version(path: Path) -> str:
    wanted = {
        "pytorch": ("torch",),
        "tensorflow": ("tensorflow-cpu", "tensorflow"),
        "jax": ("jax",),
        "autograd": ("autograd",),
    }
    for name in wanted[path.name.partition("_")[0]]:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise importlib.metadata.PackageNotFoundError(path.name)


if __name__ == "__main__":
    sys.exit(main())
