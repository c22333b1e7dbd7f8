"""One oracle under two interpreters: what has changed is said; who is slow is asked for less."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from oracles.registry import find
from tests.support.budget import affordable
from tests.support.classes import regions
from tests.support.reporting import Count, Tally
from tests.support.side_by_side import change_lines
from tests.support.verification import Verification
from tests.verification.test_coverage import check_time, verify


def test_what_has_changed() -> None:
    """Verdicts, precision and speed, of the oracles that are there twice."""
    entry = find("pytorch")
    old, new = (
        replace(entry, name=f"pytorch@{place}", version=version)
        for place, version in (("a", "1.0"), ("b", "2.0"))
    )
    tally = Tally()
    for of, ratio, seconds in ((old, 0.5, 1.0), (new, 0.75, 2.0)):
        count = tally.count(of.name)
        count.problems, count.seconds, count.ratio = 100, seconds, ratio
        count.agreed["dx"] = count.exact["dx"] = count.agreed["dw"] = count.exact["dw"] = 1
        tally.add_bits(of.name, "float32", "dx", 24)
    tally.count(new.name).failed["dw"] = 1
    tally.count("numerical").problems = 1
    lines = change_lines([old, new, find("numerical")], tally)
    assert lines[0] == "pytorch@a -> pytorch@b"
    assert [line.split() for line in lines[1:]] == [
        ["1.0", "2.0"],
        ["dX", "exact", "exact"],
        ["dW", "exact", "failed", "changed"],
        ["db", "-", "-"],
        ["y", "-", "-"],
        ["left", "out", "by", "ledger", "0", "0"],
        ["error/bound", "0.500", "0.750", "changed"],
        ["bits", "of", "float32", "24", "24"],
        ["ms", "a", "problem", "10.00", "20.00", "2.00", "times"],
    ]
    assert change_lines([old, find("numerical")], tally) == []


def test_slow_ones_are_asked_for_less() -> None:
    """In proportion to what they cost beyond a tenth of a second; others for all."""
    fast, slow = Count(problems=100, seconds=1.0), Count(problems=100, seconds=40.0)
    assert affordable(fast, 250) == 250
    assert affordable(slow, 250) == 62
    assert affordable(Count(problems=3, seconds=40.0), 250) == 250
    assert affordable(replace(slow, seconds=1e9), 250) == 1


def test_classes_that_there_is_no_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted, not passed over."""
    entry = find("tests.support.zoo:right")
    verification = Verification(
        [entry], Tally(), in_process=True, time_limit=30, regressions=tmp_path
    )
    classes = deque(regions(entry.oracle.domain), maxlen=5)
    oracle = verification.connection(entry.name)
    share = verification.budget.share(1)
    assert len(verify(oracle, classes, verification, share)) == 0
    monkeypatch.setattr("tests.verification.test_coverage.COST_OF_A_CLASS", 0)
    left = verify(oracle, classes, verification, share)
    assert list(left) == list(classes)
    with pytest.raises(pytest.fail.Exception, match="zoo:right is slow: no time for 5 classes"):
        check_time(oracle, left, verification, share)
    monkeypatch.setattr(entry.oracle, "required", False, raising=False)
    with pytest.raises(pytest.skip.Exception, match="zoo:right is slow: no time for 5 classes"):
        check_time(oracle, left, verification, share)
    check_time(oracle, [], verification, share)
    verification.close()
