"""Frameworks are imported by the processes that run them, and imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("tensorflow", "torch", "jax", "keras")


def imported_frameworks(script: str) -> str:
    """The frameworks that a fresh interpreter has imported after `script`."""
    report = f"import sys; print('imported:', [m for m in {FRAMEWORKS} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rpartition("imported:")[2].strip()


@pytest.mark.parametrize(
    "script",
    [
        "import reference, oracles",
        "from oracles import registry; assert len(registry.entries()) >= 3",
        "import pytest; assert pytest.main(['--collect-only', '-q']) == 0",
    ],
)
def test_no_framework_is_imported(script: str) -> None:
    """Neither by the packages, nor by looking oracles up, nor at collection."""
    assert imported_frameworks(script) == "[]"


def test_imports_are_quick_and_few() -> None:
    """The packages take little time beyond NumPy's; listing oracles needs no pytest either."""
    timed = """
import sys, time, numpy, ml_dtypes
start = time.process_time()
import reference, oracles
seconds = time.process_time() - start
from oracles.__main__ import main
main(["list"])
print(seconds < 0.15 or seconds, [m for m in ("pytest", "hypothesis") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", timed], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "True []"


def test_the_report_can_fail() -> None:
    """A framework that was imported is seen."""
    assert imported_frameworks("import torch") == "['torch']"


def imports(path: Path) -> set[str]:
    """The modules that the file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_the_reference_knows_nobody() -> None:
    """reference/ imports NumPy, the standard library and itself."""
    allowed = {"reference", "numpy", *sys.stdlib_module_names}
    for path in (ROOT / "reference").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_the_oracles_know_no_tests_and_the_frameworks_no_reference() -> None:
    """oracles/ imports no tests; a framework's oracle imports no convolution of ours."""
    for path in (ROOT / "oracles").glob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "tests"}, path
    for name in ("pytorch", "tensorflow"):
        ours = {i for i in imports(ROOT / "oracles" / f"{name}.py") if i.startswith("reference")}
        assert {i.split(".")[1] for i in ours} == {"problem"}
