"""`python -m oracles`: a new oracle runs as it is, a certificate says what is wrong, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from oracles import outside
from oracles.protocol import Box, Domain
from oracles.registry import find
from reference.problem import RANKS, ConvProblem
from tests.support import probing
from tests.support.ladder import narrowed, rungs
from tests.support.regressions import load

ROOT = Path(__file__).resolve().parents[2]
ONE_CELL = ("ranks=(1, 2, 3)", "ranks=(1,)"), ('("float32", "float64")', '("float32",)')


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m oracles` in a directory that is not the project's."""
    return subprocess.run(
        [sys.executable, "-m", "oracles", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def write_new(directory: Path, *changes: tuple[str, str]) -> Path:
    """The file that `new` writes, with changes."""
    assert run(directory, "new", "mine").returncode == 0
    path = directory / "mine.py"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_new(tmp_path: Path) -> None:
    """It writes a short file that is an oracle as it stands, and never over another."""
    path = write_new(tmp_path)
    assert len(path.read_text().splitlines()) < 25
    assert find(str(path)).oracle.domain.cells() == [
        (rank, dtype) for rank in RANKS for dtype in ("float32", "float64")
    ]
    done = run(tmp_path, "new", "mine")
    assert (done.returncode, done.stderr) == (
        2,
        "error: mine.py: File exists; choose another name\n",
    )
    assert "must be a Python name" in run(tmp_path, "new", "my-kernel").stderr


def test_list(tmp_path: Path) -> None:
    """Every oracle and variant has a line: where it is from, its version or how to install it."""
    lines = {line.split()[0]: line for line in run(tmp_path, "list").stdout.splitlines()}
    assert lines["numerical"].split()[1:] == ["oracles/numerical.py", "ours"]
    assert "oracles/pytorch.py" in lines["pytorch:native"]


def test_a_certificate(tmp_path: Path) -> None:
    """What is new is certified; every rung has a verdict, and both files say the same."""
    write_new(tmp_path, *ONE_CELL)
    done = run(tmp_path, "certify", "mine.py", "--problems", "5", "--no-power")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ncertified in " in done.stdout
    content = json.loads((tmp_path / "certificate-mine.py" / "certificate.json").read_text())
    verdicts = {rung["rung"]: rung["verdict"] for rung in content["rungs"]}
    absent = {rung for rung, verdict in verdicts.items() if verdict == "not claimed"}
    assert absent == {"forward", "rank 2", "rank 3", "float16", "bfloat16", "float64"}
    assert set(verdicts.values()) == {"pass", "not claimed"}
    assert content["verdict"] == "pass"
    assert content["problems"] > 300
    assert len(content["sha256"]) == 64
    table = (tmp_path / "certificate-mine.py" / "certificate.md").read_text()
    for rung in verdicts:
        assert f"| {rung} | " in table


def test_a_certificate_of_a_fault(tmp_path: Path) -> None:
    """The rung that needs the fault fails, with the shrunk problem kept; plain ones pass."""
    write_new(tmp_path, *ONE_CELL, ("return grads.dx,", "return grads.dx * (stride[0] == 1),"))
    done = run(tmp_path, "certify", "mine.py", "--problems", "20", "--no-power")
    assert done.returncode == 1, done.stdout + done.stderr
    content = json.loads((tmp_path / "certificate-mine.py" / "certificate.json").read_text())
    failed = [rung for rung in content["rungs"] if rung["verdict"] == "fail"]
    assert [rung["rung"] for rung in failed] == ["stride", "all together"]
    words = "mine.py dx[0, 0, 0] = 0, but should be "
    assert failed[0]["words"].startswith(words)
    kept = Path(failed[0]["kept"].partition("--replay=")[2])
    assert load(tmp_path / kept).problem.params.stride == (2,)
    assert "fail         stride" in done.stdout
    assert "NOT certified" in done.stdout


def test_a_certificate_of_who_answers_nothing(tmp_path: Path) -> None:
    """Every rung that is claimed fails, with what is raised; to the end."""
    write_new(tmp_path, *ONE_CELL, ("return grads.dx,", "return [][0],"))
    done = run(tmp_path, "certify", "mine.py", "--problems", "3", "--no-power")
    assert done.returncode == 1, done.stdout + done.stderr
    content = json.loads((tmp_path / "certificate-mine.py" / "certificate.json").read_text())
    verdicts = {rung["rung"]: rung["verdict"] for rung in content["rungs"]}
    assert {"dX", "dW", "db", "stride", "all together", "speed"} <= {
        rung for rung, verdict in verdicts.items() if verdict == "fail"
    }
    assert verdicts["forward"] == "not claimed"
    assert "mine.py raises IndexError: list index out of range" in done.stdout


def test_who_cannot_be_certified(tmp_path: Path) -> None:
    """One sentence, and the exit code of a usage error."""
    done = run(tmp_path, "certify", "nothing.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: oracle 'nothing.py' cannot be loaded: ")


def test_rungs_keep_to_the_domain() -> None:
    """What a domain does not have is not claimed, what it has is; plain is as plain as it goes."""
    domain = Domain(
        Box((2,), ("float32",), groups=("depthwise",), stride="equal", dilation="one"),
        Box((2,), ("float64",), groups=("some",), stride="one", padding="zero"),
    )
    claimed = {rung.name for rung in rungs(domain) if rung.strategies}
    assert {"dX", "rank 2", "stride", "padding", "dilation", "float32", "float64"} <= claimed
    assert not {"rank 1", "rank 3", "float16"} & claimed
    part = narrowed(domain, stride="any", padding="symmetric", dtypes=("float32",))
    assert part is not None
    [box] = part.boxes
    assert (box.stride, box.padding, box.dtypes) == ("equal", "symmetric", ("float32",))
    assert narrowed(domain, ranks=(1,)) is None


def test_the_rung_of_db_has_a_bias() -> None:
    """Always: of few problems without one none would say anything of db."""
    domain = Domain(Box(RANKS, ("float32",)))
    [rung] = [rung for rung in rungs(domain) if rung.name == "db"]
    assert len(rung.strategies) == len(RANKS)
    for strategy in rung.strategies:

        @settings(max_examples=10)
        @given(strategy)
        def has_one(problem: ConvProblem) -> None:
            assert problem.b is not None

        has_one()


def test_a_domain_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused, or wrong, is left out; the source that is printed makes the same domain."""
    monkeypatch.setattr(probing, "RANKS", (1,))
    monkeypatch.setattr(probing, "DTYPES", ("float32", "float64"))
    monkeypatch.setattr(probing, "_DRAWN", 40)
    (tmp_path / "mine.py").write_text(
        "from reference import ConvParams, conv_backward\n\n"
        "def backward(x, w, dy, stride, padding, dilation, groups):\n"
        "    assert x.dtype == 'float32' and groups in (1, x.shape[-1])\n"
        "    assert groups == 1 or stride == (1,)\n"
        "    assert x.shape[0]\n"
        "    params = ConvParams(stride, padding, (1,), groups)\n"
        "    grads = conv_backward(x, w, dy, params)\n"
        "    return grads.dx, grads.dw\n"
    )
    entry = find(f"{tmp_path}/mine.py", undeclared=True)
    probe = probing.Probe(entry, time_limit=30)
    probe.run()
    probe.close()
    domain = probe.domain()
    assert domain is not None
    assert domain.results == ("dx", "dw")
    assert [vars(box) for box in domain.boxes] == [
        vars(box)
        for box in (
            Box((1,), ("float32",), ("one",), dilation="one", empty_batch=False),
            Box((1,), ("float32",), ("depthwise",), "one", "one", empty_batch=False),
        )
    ]
    names: dict[str, Any] = {"Box": Box, "Domain": Domain}
    exec(probing.source(domain), names)  # our own text
    assert names["domain"].to_json() == domain.to_json()
    table = probing.matrix([probe])
    for line in (
        "| 1-D float32 | right |",
        "| 1-D float64 | refuses |",
        "| groups: some | refuses |",
        "| stride any | right / refuses |",
        "| padding any | right |",
        "| empty batch | refuses |",
        "| memory: reversed | right |",
    ):
        assert line in table, table
    assert outside.is_path(entry.name)


def test_what_a_table_says_of_crashes_and_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told apart."""
    monkeypatch.setattr(probing, "RANKS", (1,))
    monkeypatch.setattr(probing, "DTYPES", ("float32",))
    probe = probing.Probe(find("tests.support.zoo:two_regions"), time_limit=30, each=20)
    plain = probing.Place(1, "float32", "one")
    strided = replace(plain, mixture=("any", "one", "zero"))
    found = [probe.attempt(plain), probe.attempt(strided)]
    probe.close()
    assert found[0] == {"right", "wrong"}
    assert {"wrong", "crashes"} <= found[1]
    assert probe.row([plain]) == "right / wrong"
    assert "1-D float32" in probe.wrong[plain]


def test_the_line_that_installs() -> None:
    """An oracle that needs more than the distribution it is named after says so."""
    entry = replace(find("onnxruntime"), version=None)
    assert entry.missing == (
        "onnxruntime is not installed: pip install -c constraints.txt onnxruntime onnx"
    )
    assert not entry.required
    assert find("pytorch").required
