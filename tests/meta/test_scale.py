"""The benchmark of processes: what is counted, what is written, and that a red run is no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import scale
from tests.benchmarks.scale import Run, measure, report

FEW = ("tests/verification/test_oracles.py", "--problems", "3", "-k", "exact and 1d-float32")


def test_the_command_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each number of processes, with what each run was asked."""
    monkeypatch.setattr(scale, "RUNS", {"few": (*FEW, "--oracle", "numerical")})
    scale.main([f"--to={tmp_path}"])
    text = (tmp_path / "scale.md").read_text()
    assert text in capsys.readouterr().out
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| few")]
    assert [line[1] for line in lines] == ["0", "2"]
    assert lines[0][5] == "1.00"
    assert all(int(line[2]) >= 3 for line in lines)


def test_what_is_compared() -> None:
    """Problems per second, and the seconds of all cores to those of the clock."""
    text = report({"all": {0: Run(1000, 10, 15), 2: Run(900, 5, 9)}})
    assert "| all | 0 | 1,000 | 10 | 100 | 1.00 | 1.50 |\n" in text
    assert "| all | 2 | 900 | 5 | 180 | 1.80 | 1.80 |\n" in text


def test_a_red_run(tmp_path: Path) -> None:
    """Is no figure; its verdict is what the benchmark ends with."""
    with pytest.raises(RuntimeError, match=r"(?s)-n 0 .*Red: no answer"):
        measure(0, (*FEW, "--oracle", "tests.support.zoo:raises", f"--regressions={tmp_path}"))
