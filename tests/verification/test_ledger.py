"""The ledger tells the truth: each record matches problems, and its defect is still there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import find, given, seed, settings

from oracles import divergences, registry
from oracles.divergences import LEDGER, Divergence
from oracles.registry import Entry
from oracles.worker import Connection
from reference import ConvParams, ConvProblem
from tests.support.classes import one_of_each, regions
from tests.support.findings import DIRECTORY, run_script, scripts
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification

ISA = "ONEDNN_MAX_CPU_ISA"


def everywhere(problem: ConvProblem) -> bool:
    """A predicate that always holds."""
    return True


each_record = pytest.mark.parametrize("record", LEDGER, ids=lambda record: record.id)


def check_still_there(record: Divergence, entry: Entry, directory: Path = DIRECTORY) -> None:
    """Fail if the defect is gone, or if its script is missing or broken."""
    path = directory / record.script
    assert path.exists(), f"{record.id}: the script {record.script} is missing"
    assert run_script(path, entry.python, entry.environment).shows, (
        f"{record.id}: fixed in {record.oracle} {entry.version}: remove the record from "
        "oracles/divergences.py, or narrow its versions"
    )


@pytest.mark.reason("fixed divergence")
def test_defects_are_still_there(
    oracle: Connection, verification: Verification, subtests: pytest.Subtests
) -> None:
    """Each script shows its defect in a throw-away process; a fixed one must leave the ledger."""
    entry = verification.entry(oracle.name)
    for record in LEDGER:
        if record.covers(entry.base, entry.version or "", entry.environment):
            with subtests.test(record.id):
                check_still_there(record, entry)


@pytest.mark.reason("fixed divergence")
def test_records_match_problems(oracle: Connection, verification: Verification) -> None:
    """Problems that the oracle accepts meet every predicate: no record is dead."""
    name, domain = verification.entry(oracle.name).base, oracle.domain
    unmet = {record.id: record.applies for record in LEDGER if name in record.names}

    def meet(problem: ConvProblem) -> None:
        for met in [record_id for record_id, applies in unmet.items() if applies(problem)]:
            del unmet[met]

    few = settings(max_examples=200, database=None, deadline=None)
    for number in range(20):
        for rank, dtype in domain.cells():
            if unmet:
                seed(number)(few(given(problem=problems(domain, rank, dtype))(meet)))()
        classes = (of for of in regions(domain, number) if of.fill == "wide" and unmet)
        for problem in one_of_each(classes, number):
            meet(problem)
        if not unmet:
            break
    assert not unmet, f"no problem that {name} accepts matches {', '.join(unmet)}"


@each_record
def test_record_is_complete(record: Divergence) -> None:
    """A known oracle, a cause, a link or the word that there is none."""
    assert record.oracle in registry.names()
    assert record.cause
    assert record.upstream == "not found upstream" or record.upstream.startswith("https://")


def test_one_sample_of_one_output_column() -> None:
    """PyTorch gives it to oneDNN if the kernel is large; TensorFlow's oneDNN does it right."""
    applies = {record.id: record.applies for record in LEDGER}
    for size, samples, names in ((4, 1, "p"), (3, 1, ""), (3, 2, "pt")):
        problem = ConvProblem(
            np.ones((samples, 5, 5, 1), np.float32),
            np.ones((size, size, 1, 1), np.float32),
            None,
            np.ones((samples, 6 - size, 1, 1), np.float32),
            ConvParams(stride=(1, 4)),
        )
        for oracle in ("pytorch", "tensorflow"):
            assert applies[f"{oracle}-one-output-column"](problem) == (oracle[0] in names)


def test_ids_are_unique() -> None:
    """No two records share an id."""
    assert len({record.id for record in LEDGER}) == len(LEDGER)


def test_every_finding_is_in_the_table() -> None:
    """tests/findings/README.md has a row for every script."""
    table = (DIRECTORY / "README.md").read_text()
    assert sorted(set(re.findall(r"\]\((\w+\.py)\)", table))) == [path.name for path in scripts()]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('not reproduced')", "fixed in pytorch 2.13.0: remove the record"),
        ("import no_such_module", "is broken: it exits with 1"),
        ("print('done')", "is broken: it exits with 0"),
        (None, "the script script.py is missing"),
    ],
)
def test_the_check_can_fail(code: str | None, words: str, tmp_path: Path) -> None:
    """A fixed defect and a broken or missing script are errors."""
    if code is not None:
        (tmp_path / "script.py").write_text(code)
    record = Divergence("id", "pytorch", "", everywhere, "crash", "", "", "script.py")
    entry = Entry("pytorch", registry.find("pytorch").oracle, "2.13.0")
    with pytest.raises(AssertionError, match=re.escape(words)):
        check_still_there(record, entry, tmp_path)


@pytest.mark.parametrize("code", ["import os; os.abort()", "print('DEFECT: no'); exit(1)"])
def test_a_defect_that_shows(code: str, tmp_path: Path) -> None:
    """Death by a signal and the line DEFECT both show a defect."""
    (tmp_path / "script.py").write_text(code)
    assert run_script(tmp_path / "script.py").shows


def test_versions_and_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is silent about other versions, other processors and other oracles."""
    record = Divergence(
        "id", "pytorch", "==2.13.*", everywhere, "crash", "", "", "script.py", "avx512f"
    )
    monkeypatch.setattr(divergences, "LEDGER", (record,))
    monkeypatch.setattr(divergences, "cpu_flags", lambda: frozenset({"avx512f"}))
    problem: ConvProblem = find(
        problems(registry.find("pytorch").oracle.domain, 1, "float32"), bool
    )
    assert divergences.find("pytorch", "2.13.0+cpu", problem) is record
    assert divergences.find("pytorch", "2.14.0", problem) is None
    assert divergences.find("tensorflow", "2.13.0", problem) is None
    assert divergences.find("pytorch", "2.13.0+cpu", problem, {ISA: "AVX512_CORE"}) is record
    assert divergences.find("pytorch", "2.13.0+cpu", problem, {ISA: "AVX2"}) is None
    assert divergences.find("pytorch:native", "2.13.0+cpu", problem) is None
    assert divergences.find("pytorch", "2.13.0+cpu", problem, {ISA: "AVX512_CORE_BF16"}) is record
    half = replace(record, needs="avx512_fp16")
    monkeypatch.setattr(divergences, "LEDGER", (half,))
    assert divergences.find("pytorch", "2.13.0+cpu", problem) is None
    monkeypatch.setattr(divergences, "cpu_flags", lambda: frozenset({"avx512f", "avx512_fp16"}))
    assert divergences.find("pytorch", "2.13.0+cpu", problem) is half
    assert divergences.find("pytorch", "2.13.0+cpu", problem, {ISA: "AVX512_CORE_BF16"}) is None
    assert divergences.find("pytorch", "2.13.0+cpu", problem, {ISA: "AVX512_CORE_FP16"}) is half
    monkeypatch.setattr(divergences, "LEDGER", (record,))
    monkeypatch.setattr(divergences, "cpu_flags", frozenset)
    assert divergences.find("pytorch", "2.13.0+cpu", problem) is None
    narrow = replace(record, needs="", lacks="avx512f", variants=("native",))
    monkeypatch.setattr(divergences, "LEDGER", (narrow,))
    assert divergences.find("pytorch:native", "2.13.0+cpu", problem) is narrow
    monkeypatch.setattr(divergences, "cpu_flags", lambda: frozenset({"avx512f"}))
    assert divergences.find("pytorch:native", "2.13.0+cpu", problem) is None
    monkeypatch.setenv(ISA, "avx2")
    assert divergences.find("pytorch:native", "2.13.0+cpu", problem) is narrow


@pytest.mark.parametrize("ledger", [True, False])
def test_a_run_without_the_ledger(
    ledger: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asks for what is known to go wrong too; one with it, of that version only, does not."""
    record = Divergence("id", "pytorch", "==2.13.*", everywhere, "crash", "", "", "script.py")
    monkeypatch.setattr(divergences, "LEDGER", (record,))
    domain = registry.find("pytorch").oracle.domain
    problem: ConvProblem = find(problems(domain, 1, "float32"), bool)
    for version, is_known in (("2.13.0", ledger), ("2.14.0", False)):
        entry = Entry("pytorch", registry.find("pytorch").oracle, version)
        run = Verification(
            [entry],
            Tally(),
            in_process=True,
            time_limit=1,
            regressions=tmp_path,
            ledger=ledger,
        )
        assert run.known("pytorch", problem) is is_known
