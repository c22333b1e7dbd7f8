"""Counterexamples, kept as JSON that depends on no version of anything, and read again.

A file holds one problem, those that must be asked before it to make the fault show, and what was
said of an oracle when it was kept. Its name is made from the oracle, the kind of the verdict and
the problem, so the same finding has the same file. A standalone script lies beside it where there
is one. Both appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oracles.compare import Verdict
from reference.layout import strides_of, with_strides
from reference.problem import Array, ConvParams, ConvProblem

FORMAT = 2
WORST = "worst"  # the kind of the right answers that are the furthest off
SEEN_ONCE = "seen once"  # the kind of what could not be shown again
_ARRAYS = ("x", "w", "b", "dy")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kept:
    """One counterexample: of whom what was said, and what makes it show: see `Evidence`.

    `ratio` is the largest error / bound of an answer that was still right: of kind WORST.
    """

    problem: ConvProblem
    oracle: str
    version: str
    kind: str
    message: str
    before: tuple[ConvProblem, ...] = ()
    asks: int = 1
    ratio: float = 0.0


def save(verdict: Verdict, version: str, directory: Path, script: str | None = None) -> Path:
    """Keep the problem of `verdict` in `directory`, and `script` beside it; returns the file."""
    evidence = verdict.shown_by
    problem = problem_to_json(verdict.problem)
    content = {
        "format": FORMAT,
        "oracle": verdict.oracle,
        "version": version,
        "kind": verdict.kind,
        "message": verdict.message,
        "problem": problem,
        "before": [problem_to_json(other) for other in evidence.before],
        "asks": evidence.asks,
    }
    digest = hashlib.sha256(json.dumps(problem, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w]+", "-", f"{verdict.oracle}-{verdict.kind}-{digest}")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    if script is not None:
        write_atomically(path.with_suffix(".py"), script)
    write_atomically(path, _lines(content) + "\n")
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file under another name, then rename it: it is there whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).chmod(0o644)  # for whoever reads it in CI
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _lines(value: Any, indent: str = "") -> str:
    """`value` as JSON: a line for each entry of a dict and each dict of a list."""
    inner, (opening, closing) = indent + " ", "[]"
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(key)}: {_lines(entry, inner)}" for key, entry in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        entries = [_lines(entry, inner) for entry in value]
    else:
        return json.dumps(value)
    body = f",\n{inner}".join(entries)
    return f"{opening}\n{inner}{body}\n{indent}{closing}"


def load(path: Path) -> Kept:
    """The counterexample in `path`; raises ValueError that says what is wrong with the file."""
    try:
        content = json.loads(path.read_text())
        if content["format"] not in (1, FORMAT):  # 1 had no "before" and "asks"
            raise ValueError(f"format {content['format']!r}, but this project reads 1 and {FORMAT}")
        words = {key: str(content[key]) for key in ("oracle", "version", "kind", "message")}
        before = tuple(map(problem_from_json, content.get("before", [])))
        asks, ratio = int(content.get("asks", 1)), float(content.get("ratio", 0))
        problem = problem_from_json(content["problem"])
        return Kept(problem, **words, before=before, asks=asks, ratio=ratio)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a kept counterexample: {error!r}") from None


def save_worst(verdict: Verdict, version: str, result: str, directory: Path) -> Path | None:
    """Keep the problem of `verdict`, whose `result` is right, if none that is kept is further off.

    There is one file for each oracle, dtype and result; it is returned if it was written.
    """
    ratio = float(verdict.ratios[result].max())
    name = re.sub(r"[^\w]+", "-", f"{verdict.oracle}-{verdict.problem.dtype}-{result}")
    path = directory / WORST / f"{name}.json"
    if path.exists() and load(path).ratio >= ratio:
        return None
    content = {
        "format": FORMAT,
        "oracle": verdict.oracle,
        "version": version,
        "kind": WORST,
        "message": f"{verdict.oracle} {result} is right, with an error of {ratio:.4f} of the bound",
        "problem": problem_to_json(verdict.problem),
        "ratio": ratio,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _lines(content) + "\n")
    return path


def replay_command(oracle: str, path: Path) -> str:
    """What to type to ask `oracle` for the counterexample in `path` alone."""
    there = [] if Path.cwd() == _ROOT else [str(_ROOT / "tests" / "verification")]
    return shlex.join(["pytest", *there, f"--oracle={oracle}", f"--replay={path}"])


def kept_files(directory: Path) -> list[Path]:
    """The files in `directory` that hold counterexamples or worst cases, in a fixed order."""
    return [*sorted(directory.glob("[!.]*.json")), *sorted(directory.glob(f"{WORST}/[!.]*.json"))]


def problem_to_json(problem: ConvProblem) -> dict[str, Any]:
    """`problem`, of float data, as what JSON can hold, value for value."""
    params = problem.params
    return {
        "stride": params.stride,
        "padding": params.padding,
        "dilation": params.dilation,
        "groups": params.groups,
        "arrays": {
            name: _array_to_json(getattr(problem, name))
            for name in _ARRAYS
            if getattr(problem, name) is not None
        },
    }


def problem_from_json(content: dict[str, Any]) -> ConvProblem:
    """The problem that `problem_to_json` was given."""
    arrays = {name: _array_from_json(array) for name, array in content["arrays"].items()}
    params = ConvParams(
        content["stride"], content["padding"], content["dilation"], content["groups"]
    )
    return ConvProblem(arrays["x"], arrays["w"], arrays.get("b"), arrays["dy"], params)


def _array_to_json(array: Array) -> dict[str, Any]:
    values = [float(value) for value in array.ravel()]
    content: dict[str, Any] = {
        "dtype": array.dtype.name,
        "shape": array.shape,
        "values": [value if math.isfinite(value) else str(value) for value in values],
    }
    if (strides := strides_of(array)) is not None:
        content["strides"] = strides
    if not array.flags.writeable:
        content["read-only"] = True
    return content


def _array_from_json(content: dict[str, Any]) -> Array:
    values = np.array([float(value) for value in content["values"]], content["dtype"])
    strides = content.get("strides")
    array = with_strides(values.reshape(content["shape"]), strides and tuple(strides))
    array.flags.writeable = not content.get("read-only", False)
    return array
