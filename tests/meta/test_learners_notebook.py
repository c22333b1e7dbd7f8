"""docs/conv_backward.ipynb runs as it is stored, asks who is installed, and can fail."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from oracles.registry import entries
from tests.meta.test_face import HIDE_TENSORFLOW, INSTALL_LINE, ROOT
from tests.support.mutants import oracle_name
from tests.support.notebook import PATH, execute, load, settled, text_of
from tests.verification.test_notebook import CASES


def position(notebook: NotebookNode, part: str) -> int:
    """Which cell has this in its source; it is one."""
    [at] = [number for number, cell in enumerate(notebook.cells) if part in cell.source]
    return at


def test_it_shows_what_is_stored() -> None:
    """Every cell's output, pictures too, to the byte; if not, `make notebook` and look at it."""
    executed = execute(load())
    printed = text_of(executed)
    for entry in entries():
        assert f"asked: {entry.name}" in printed if entry.installed else entry.missing in printed
    assert nbformat.writes(settled(executed)) + "\n" == PATH.read_text()


def test_the_ten_cases_are_the_notebooks() -> None:
    """L of each is the literal that the notebook has."""
    printed = [line for line in text_of(load()).splitlines() if line.startswith("L = ")]
    assert printed == [f"L = {case.L}, and all gradients are equal" for case in CASES]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it; the others are asked."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_TENSORFLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notebook = load()
    printed = text_of(execute(notebook, position(notebook, "entry.missing") + 1))
    assert INSTALL_LINE in printed
    assert "asked: numerical" in printed
    assert "asked: tensorflow" not in printed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dX[window] += dY[h, w] * W\n", "dX[window] += dY[w, h] * W\n"),
        ("dW += dY[h, w] * X[window]\n", "dW += dY[h, w] * X[window].T\n"),
    ],
)
def test_wrong_loops_are_seen(old: str, new: str) -> None:
    """A dY that is transposed too, which a dY of ones would hide."""
    notebook = load()
    at = position(notebook, "## 1. Basic") + 2
    assert old in notebook.cells[at].source
    notebook.cells[at].source = notebook.cells[at].source.replace(old, new)
    with pytest.raises(CellExecutionError, match="differs from the reference"):
        execute(without_oracles(notebook), at + 1)


def test_a_wrong_oracle_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the element."""
    name = oracle_name("dx_kernel_not_flipped")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = without_oracles(load(), f"registry.connect(registry.find({name!r}))")
    with pytest.raises(
        CellExecutionError, match=r"dx_kernel_not_flipped dx\[0, 0, 0, 0\] = 4, but should"
    ):
        execute(notebook, position(notebook, "## 1. Basic") + 3)


def without_oracles(notebook: NotebookNode, instead: str = "") -> NotebookNode:
    """The notebook asks nobody, or who is given instead; it is changed."""
    notebook.cells[position(notebook, "entry.missing")].source = f"asked = [{instead}]"
    return notebook
