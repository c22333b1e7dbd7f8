"""`python -m tests.support.notebook`: run docs/conv_backward.ipynb, keep what it shows in the file.

What differs from machine to machine or from run to run is not kept: the output of cells that are
tagged "varies", times, and the version of Python.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.support.regressions import write_atomically

PATH = Path(__file__).resolve().parents[2] / "docs" / "conv_backward.ipynb"
TIME_LIMIT = 300  # seconds a cell; the first that asks an oracle imports it


def load(path: Path = PATH) -> NotebookNode:
    """The notebook in a file, checked against nbformat's schema."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(notebook: NotebookNode, cells: int | None = None) -> NotebookNode:
    """A copy of the notebook, or of its first `cells`, as run here from docs/, with what it shows.

    Raises nbclient's CellExecutionError where a cell raises.
    """
    notebook = nbformat.from_dict({**notebook, "cells": notebook.cells[:cells]})
    client = NotebookClient(
        notebook,
        timeout=TIME_LIMIT,
        record_timing=False,
        coalesce_streams=True,  # a line may come in two messages
        resources={"metadata": {"path": str(PATH.parent)}},
    )
    client.execute()
    return notebook


def settled(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run; it is changed."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if "varies" in cell.metadata.get("tags", ()):
            cell.outputs = []
    return notebook


def text_of(notebook: NotebookNode) -> str:
    """What its cells print."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


if __name__ == "__main__":
    write_atomically(PATH, nbformat.writes(settled(execute(load()))) + "\n")
