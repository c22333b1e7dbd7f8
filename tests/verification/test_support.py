"""What each oracle takes, found out by asking also beyond what it claims: a table of the report."""

from __future__ import annotations

import pytest

from oracles.compare import Disagreement
from oracles.registry import find
from oracles.worker import Connection
from tests.support.probing import Probe
from tests.support.reporting import Tally
from tests.support.verification import Verification

EACH = 2  # problems of a kind
SECONDS = 60.0  # for one oracle; the rest is left out of the table


def check_support(verification: Verification, name: str) -> None:
    """Try all kinds of problems, count what became of them; those that are claimed are right."""
    __tracebackhide__ = True
    probe = Probe(
        verification.entry(name),
        verification.time_limit,
        each=EACH,
        known=lambda problem: verification.known(name, problem),
    )
    try:
        probe.run(SECONDS)
    finally:
        probe.close()
    verification.tally.count(name).support = probe.cells()
    with verification.keeping():
        for verdict in probe.broken:
            verdict.check()


def test_what_is_claimed_is_right(oracle: Connection, verification: Verification) -> None:
    """Of the plainest problem of each kind upwards; what is not claimed may be anything."""
    check_support(verification, oracle.name)


@pytest.mark.parametrize(
    ("name", "rows", "words", "claimed"),
    [
        ("tests.support.zoo:takes_dilation_for_one", "dilation any", "wrong", False),
        ("tests.support.zoo:segfaults_on_stride_2", "stride", "crashes", True),
    ],
)
def test_what_it_says(
    name: str, rows: str, words: str, claimed: bool, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong beyond the domain is said in the table, within it is a failure too."""
    monkeypatch.setattr("tests.support.probing.RANKS", (2,))
    monkeypatch.setattr("tests.support.probing.DTYPES", ("float32",))
    verification = Verification(
        [find(name)], Tally(), in_process=False, time_limit=30, regressions=tmp_path
    )
    try:
        if claimed:
            with pytest.raises(Disagreement, match=f"^{name} "):
                check_support(verification, name)
        else:
            check_support(verification, name)
    finally:
        verification.close()
    support = verification.tally.count(name).support
    assert any(words in cell for row, cell in support.items() if row.startswith(rows))
    assert support["2-D float32"] == "right"
    again = Tally()
    again.add_json(verification.tally.to_json())
    assert again.count(name).support == support
