"""Who catches which mutant: the peers' cases, what counts as caught, and what is written."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from oracles.protocol import Oracle
from tests.benchmarks import peer_cases
from tests.benchmarks.peer_cases import Case
from tests.benchmarks.power_peers import (
    JUDGES,
    MUTANTS,
    ORACLES,
    RIGHT,
    Apart,
    Cell,
    Judge,
    ask,
    calibrate,
    is_right,
    text_of,
    with_judge,
)
from tests.benchmarks.power_report import OURS, UNION, Report, svg
from tests.support.regressions import write_atomically

BY_HAND = JUDGES["by hand"]
SOURCES: dict[str, Callable[[], Iterator[Case]]] = {
    "by hand": peer_cases.by_hand,
    "pytorch": lambda: peer_cases.pytorch("float64"),
    "jax": lambda: peer_cases.jax("float32"),
    "tensorflow": peer_cases.tensorflow,
}


def heard(judge: Judge, name: str, **options: Any) -> Cell:
    """What a judge says of a mutant, its cases calibrated."""
    cases = [*judge.cases()]
    return ask(judge, ORACLES[name], cases, calibrate(judge, cases), **options)


@pytest.mark.parametrize(("source", "count"), [*zip(SOURCES, (9, 42, 588, 61))])
def test_cases(source: str, count: int) -> None:
    """Each is a problem that the reference takes, with a name of its own."""
    cases = [*SOURCES[source]()]
    assert len({case.name for case in cases}) == len(cases) == count
    for case in cases:
        assert case.problem.dtype == case.dtype
        assert {*case.inputs} <= {"x", "w", "b"}
        assert (case.problem.b is not None) == ("b" in case.inputs)


def test_an_unbatched_case_has_a_batch_of_one() -> None:
    """It is left out where the batched one has, too."""
    cases = {case.name: case for case in peer_cases.pytorch("float64")}
    assert cases["conv2d[1] float64"].x == (2, 8, 8, 4)
    assert cases["conv2d[1] unbatched float64"].x == (1, 8, 8, 4)
    assert "conv2d[0] unbatched float64" not in cases


@pytest.mark.parametrize(
    ("name", "caught"),
    [
        ("unmutated", False),
        ("dx_kernel_not_flipped", True),
        ("db_keepdims", False),  # np.allclose broadcasts
        ("dx_dilation_ignored", False),  # the list has no dilation
        ("y_dilation_ignored", False),
        ("y_bias_twice", True),
    ],
)
def test_by_hand(name: str, caught: bool) -> None:
    """What its cases show is caught, on a case that is named."""
    cell = heard(BY_HAND, name)
    assert cell["caught"] == caught
    if caught:
        assert cell["case"] in {case.name for case in BY_HAND.cases()}
    else:
        assert cell["asked"] == 9


def test_alarms_at_what_is_right_are_no_evidence() -> None:
    """A case at which the judge blames any backward that is right is not asked."""

    def suspicious(oracle: Oracle, case: Case) -> bool:
        return oracle is not ORACLES["rounded_once"] and "5, 5, 1, 6" in case.name

    judge = replace(BY_HAND, content=suspicious)
    calibration = calibrate(judge, judge.cases())
    assert all(
        {*RIGHT} == {*one["alarms"]} for name, one in calibration.items() if "28" not in name
    )
    assert heard(judge, "dx_kernel_not_flipped")["asked"] == 0


def test_an_exception_is_an_alarm() -> None:
    """Whatever a framework makes of a wrong shape or dtype; it is named."""

    def strict(oracle: Oracle, case: Case) -> bool:
        if oracle is MUTANTS["dx_kernel_not_flipped"]:
            raise TypeError("not what was expected")
        return True

    cell = heard(replace(BY_HAND, content=strict), "dx_kernel_not_flipped")
    assert (cell["caught"], cell["how"], cell["asked"]) == (True, "raises TypeError", 1)


def test_what_takes_too_long_is_skipped() -> None:
    """Cases whose own data are answered wrongly come first, and may cost more."""
    cases = [*peer_cases.by_hand()]
    seconds = {1: 0.01, 2: 1.5}
    calibration = {
        case.name: {"seconds": seconds[case.params.stride[0]], "alarms": []} for case in cases
    }
    calibration[cases[0].name]["seconds"] = 2.5  # more than VAIN
    calibration[cases[3].name]["seconds"] = 5.0
    told: list[str] = []
    content = replace(BY_HAND, content=lambda *_: True)
    cell = ask(content, MUTANTS["dw_stride_ignored"], cases, calibration, 4.0, told.append)
    assert told[: len(cases)] == [case.name for case in cases]  # their own data
    of_stride_2 = [case.name for case in cases if case.name.endswith("stride 2")]
    assert told[len(cases) : len(cases) + 2] == of_stride_2[1:]
    assert (cell["asked"], cell["skipped"], cell["in_vain"]) == (7, 1, 1)


def test_is_right() -> None:
    """But for rounding, and the problem must be left as it was."""
    *_, case = peer_cases.by_hand()
    assert is_right(ORACLES["unmutated"], case)
    assert is_right(ORACLES["rounded_once"], case)
    assert not is_right(MUTANTS["dx_kernel_not_flipped"], case)
    assert not is_right(MUTANTS["gy_modified_in_place"], case)


def die(connection: Connection, *_: object) -> None:
    """A judge's process which does not survive any mutant."""
    connection.send({})
    connection.send(f"the case of {connection.recv()}")
    os.kill(os.getpid(), signal.SIGSEGV)


def test_the_end_of_the_process_is_an_alarm() -> None:
    """It is named, with the case, and the next mutant finds a new process."""
    apart = Apart(BY_HAND, target=die)
    for name in ("sigfpe_on_zero", "dx_kernel_not_flipped"):
        cell = apart.ask(name)
        assert cell["caught"]
        assert cell["how"] == "ends with SIGSEGV"
        assert cell["case"] == f"the case of {name}"
    apart.close()


def found(**cells: Cell) -> dict[str, Any]:
    """What a run leaves, of the judge by hand."""
    of_judge = {
        "words": "np.allclose",
        "version": "numpy 2",
        "cases": 9,
        "seconds": 0.5,
        "false_alarms": {"unmutated": ["a", "b"], "rounded_once": ["b"]},
    }
    mutants = {name: {"by hand": cell} for name, cell in cells.items()}
    return {"judges": {"by hand": of_judge}, "mutants": mutants}


def test_the_file(tmp_path: Path) -> None:
    """A line for each mutant and judge, in order; nothing else is left in the directory."""
    path = tmp_path / "power.json"
    write_atomically(path, text_of(found(b={"caught": True})))
    of_judge = found()["judges"]["by hand"]
    text = text_of(with_judge(path, "by hand", of_judge, {"a": {"caught": False, "asked": 9}}))
    write_atomically(path, text)
    assert [*tmp_path.iterdir()] == [path]
    assert json.loads(text)["mutants"]["a"]["by hand"]["asked"] == 9
    lines = [line for line in text.splitlines() if '"caught"' in line]
    assert lines == [
        '   "by hand": {"asked": 9, "caught": false}',
        '   "by hand": {"caught": true}',
    ]


@dataclass(frozen=True)
class Line:
    """A cell and what the matrix says of it."""

    cell: Cell
    words: str


LINES = {
    "one": Line({"caught": True, "how": "differs", "case": "a"}, "caught"),
    "two": Line({"caught": True, "how": "hangs", "case": "a"}, "caught: hangs"),
    "three": Line({"caught": False, "asked": 9, "skipped": 0, "in_vain": 4}, "missed"),
    "four": Line({"caught": False, "asked": 9, "skipped": 2, "in_vain": 4}, "missed, 2 not run"),
    "five": Line({"caught": False, "asked": 0, "skipped": 0, "in_vain": 0}, "not asked"),
    "six": Line({"caught": False, "how": "too slow", "case": "a"}, "too slow"),
}


def test_the_report() -> None:
    """Shares, false alarms, the matrix, and our column where there is one."""
    peers = found(**{name: line.cell for name, line in LINES.items()})
    peers["mutants"]["allowed"] = {"by hand": {"caught": True, "how": "differs"}}
    one = {
        "check": "exact",
        "problems": [3, 1, 2],
        "seconds": [0.5, 0.25, 1],
        "size": 1000,
        "regions": ["bias"],
        "upstream": ["issue#1"],
    }
    none = {"check": None, "problems": [None], "seconds": [None], "size": None, "upstream": []}
    ours = {"one": one, "two": none}
    report = Report(peers, ours, [*LINES], ["unmutated", "allowed"])
    for name, line in LINES.items():
        assert report.cell(name, "by hand") == line.words
    assert report.false_alarms("by hand") == "3 of 3, 2 cases"
    assert report.bars() == {"ours": 1, UNION: 2, "by hand": 2}
    assert [report.our_cell(name) for name in LINES][:3] == ["exact, 2", "missed", "not asked"]
    text = report.markdown()
    assert "| by hand | np.allclose | 9 | 2 of 6 | 1 | 2 | 3 of 3, 2 cases | 0.5 |" in text
    assert "| `four` | not asked | missed, 2 not run |" in text
    assert "| `one` | exact | 2 | 3 | 0.50 | 1,000 | bias |" in text
    assert "| `two` | missed | - | - | - | - | - |" in text
    assert "- `one`, 1,000: not known" in text
    assert "| issue#1 | `one` | exact | 2 | 3 | 0.50 |" in text
    assert OURS not in Report(peers, {}, [*LINES], []).markdown()


def test_the_plot() -> None:
    """A bar has the length of its share."""
    text = svg({"ours": 4, "<peer>": 1}, 4)
    assert 'width="480.0"' in text
    assert 'width="120.0"' in text
    texts = [element.text for element in ElementTree.fromstring(text).iter() if element.text]
    assert [words for words in texts if words.strip()] == ["ours", "4 of 4", "<peer>", "1 of 4"]
