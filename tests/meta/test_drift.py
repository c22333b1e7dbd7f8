"""The drift gate can turn red, stays green on the same code, and damages no baseline."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from oracles import divergences
from oracles.protocol import DTYPES, GROUP_KINDS, Box, Domain, GroupKind
from oracles.registry import find
from reference import ConvProblem
from tests.meta.test_face import run_pytest
from tests.support import drift
from tests.support.drift import PROBLEMS, Row
from tests.support.fixed import probes
from tests.support.regressions import load as load_kept
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification

DRIFT = "tests/verification/test_precision.py::test_drift"
NAME = "tests.support.zoo:errors_grow"
ARGUMENTS = ("--oracle", NAME, DRIFT, "-k", "1d-float32")
OLD = Row("1.0", 0.2, 0.1, 7, [0.1] * PROBLEMS)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of one oracle's cell."""
    path = tmp_path_factory.mktemp("baseline") / "baseline.json"
    code, output = run_pytest(*ARGUMENTS, f"--baseline={path}", "--update-baseline")
    assert code == pytest.ExitCode.OK, output
    return path


def test_the_same_code_stays_green(baseline: Path) -> None:
    """What is measured again is equal to the last digit, and is written in the same bytes."""
    before = baseline.read_text()
    assert run_pytest(*ARGUMENTS, f"--baseline={baseline}")[0] == pytest.ExitCode.OK
    code, _ = run_pytest(*ARGUMENTS, f"--baseline={baseline}", "--update-baseline", "-n", "2")
    assert code == pytest.ExitCode.OK
    assert baseline.read_text() == before
    lines = [line for line in before.splitlines() if NAME in line]
    assert lines == sorted(lines)
    assert len(lines) == len(drift.load(baseline)) == 4


def test_a_loss_of_two_bits_turns_the_gate_red(baseline: Path) -> None:
    """Still within every bound, but named, with what it was, what it is, and the worst problem."""
    code, output = run_pytest(*ARGUMENTS, f"--baseline={baseline}", ERRORS="4")
    assert code == pytest.ExitCode.TESTS_FAILED
    for result in ("dx", "dw"):
        assert f"{NAME} float32 1-D {result} " in output
    assert f"{NAME} float32 1-D y " not in output
    assert re.search(r"less exact than in the baseline by about [12]\.\d bits: ", output)
    assert "worst problem: tests.support.fixed.reals(domain, 1, 'float32', " in output
    assert run_pytest(*ARGUMENTS, ERRORS="4")[0] == pytest.ExitCode.OK


def test_an_oracle_that_the_baseline_does_not_know_is_red(baseline: Path) -> None:
    """A gate that compares nothing would be green whatever happens."""
    options = ("--oracle", "numerical", DRIFT, "-k", "1d-float32", f"--baseline={baseline}")
    code, output = run_pytest(*options)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "numerical float32 1-D dw " in output
    assert "the baseline has no such row; --update-baseline records it" in output


def test_a_record_of_another_machine_is_said(baseline: Path, tmp_path: Path) -> None:
    """Nobody is called less exact for its processor; an update adds rows, and keeps the others."""
    path = tmp_path / "baseline.json"
    theirs = {
        name.replace(drift.machine(), "SomebodyElse:avx512f"): row
        for name, row in drift.load(baseline).items()
    }
    drift.save(path, theirs)
    before = path.read_text()
    code, output = run_pytest(*ARGUMENTS, f"--baseline={path}")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert (
        f"--baseline {path}: recorded on SomebodyElse:avx512f, but this is {drift.machine()}, where"
        in output
    )
    assert path.read_text() == before
    code, _ = run_pytest(*ARGUMENTS, f"--baseline={path}", "--update-baseline")
    assert code == pytest.ExitCode.OK
    assert drift.load(path) == {**theirs, **drift.load(baseline)}
    assert run_pytest(*ARGUMENTS, f"--baseline={path}")[0] == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("cpuinfo", "words"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: sse2 avx2 avx512f avx512_bf16\n", "avx512_bf16"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16 avx512f avx512_fp16\n", "avx512_fp16"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: sse2 avx2\n", "avx2"),
        ("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n", "asimd"),
        ("", "unknown"),
    ],
)
def test_what_kind_of_machine_this_is(
    cpuinfo: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries choose their kernels by: the vendor, and the most that the processor has."""
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: 2 * cpuinfo)
    for ask in (divergences.cpu_flags, divergences.cpu_vendor):
        monkeypatch.setattr(divergences, ask.__name__, ask.__wrapped__)
        monkeypatch.setattr(drift, ask.__name__, ask.__wrapped__)
    vendor = cpuinfo.splitlines()[0].rpartition(" ")[2] if cpuinfo else "unknown"
    assert drift.machine() == f"{vendor}:{words}"


def test_a_result_that_is_no_longer_measured_is_red(baseline: Path, tmp_path: Path) -> None:
    """What an oracle has ceased to claim cannot be less exact, and is not passed over."""
    path = tmp_path / "baseline.json"
    name = next(name for name in drift.load(baseline) if " dw " in name)
    other = name.replace(NAME, "numerical").replace(" dw ", " y ")
    drift.save(path, {**drift.load(baseline), other: drift.load(baseline)[name]})
    code, output = run_pytest(
        "--oracle", "numerical", DRIFT, "-k", "1d-float32", f"--baseline={path}"
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"{other}: in the baseline, but nothing of it was measured now" in output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; record it with --update-baseline"),
        ("", "damaged or cut off: restore it, or delete it and record"),
        ('{"format": 1, "rows": {', "damaged or cut off"),
        ('{"format": 99, "rows": {}}', "format 99, but this project reads 1"),
        ("[]", "no baseline ("),
        ('{"format": 1, "rows": {"a": 1}}', "no baseline ("),
        (
            '{"format": 1, "rows": {"a": {"version": "", "problems": [1]}}}',
            f"a row of 1 problems, not {PROBLEMS}",
        ),
    ],
)
def test_what_is_no_baseline_is_said_and_kept(
    content: str | None, words: str, tmp_path: Path
) -> None:
    """No run begins, and nothing is overwritten, not even where the file is to be updated."""
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_text(content)
    for update in [[], ["--update-baseline"]] if content is not None else [[]]:
        code, output = run_pytest(*ARGUMENTS, f"--baseline={path}", *update)
        assert code == pytest.ExitCode.USAGE_ERROR
        assert f"--baseline {path}: " in output
        assert words in output
    assert (path.read_text() if path.exists() else None) == content


def test_what_chance_explains_is_no_drift() -> None:
    """Larger on 41 of 48 problems is beyond chance, on 39 not yet; equal ones do not count."""
    assert drift.drift("mine", OLD, OLD) == ""

    def worse(count: int, others: float) -> Row:
        problems = [0.4] * count + [others] * (PROBLEMS - count)
        return Row("1.1", 0.8, 0.4, 7, problems)

    assert drift.drift("mine", OLD, worse(39, 0.05)) == ""
    assert drift.drift("mine", OLD, worse(19, 0.1)) == ""
    assert drift.drift("mine", OLD, worse(20, 0.1))
    assert drift.drift("mine", OLD, worse(41, 0.05)) == (
        "mine: less exact than in the baseline by about 2.0 bits: error/bound is larger on 41 of "
        "48 problems, where chance would have it on half of them; largest 0.8, was 0.2; 99th "
        "percentile 0.4, was 0.1; version 1.1, was 1.0"
    )


def test_rows_of_others_stay(tmp_path: Path) -> None:
    """An update replaces what was measured and keeps the rest."""
    path = tmp_path / "baseline.json"
    drift.save(path, {"b": OLD, "a": OLD})
    drift.save(path, {"b": replace(OLD, worst=8)})
    assert {name: row.worst for name, row in drift.load(path).items()} == {"a": 7, "b": 8}
    assert list(json.loads(path.read_text())["rows"]) == ["a", "b"]
    assert list(tmp_path.iterdir()) == [path]


def test_worst_cases_are_driven_and_kept(tmp_path: Path) -> None:
    """Hypothesis is told of every ratio; the worst problem of each result is written in the end."""
    verification = Verification(
        [find("numerical")], Tally(), in_process=True, time_limit=30, regressions=tmp_path
    )
    oracle = verification.connection("numerical")
    seen: dict[str, float] = {}

    @settings(max_examples=60, phases=[Phase.generate, Phase.target], database=None, deadline=None)
    @given(problem=problems(oracle.domain, 1, "float32", "reals"))
    def drive(problem: ConvProblem) -> None:
        verdict = verification.verify(oracle, problem)
        assert verdict is not None
        verification.drive(verdict)
        for result, ratios in verdict.ratios.items():
            seen[result] = max(seen.get(result, 0), float(ratios.max()))

    drive()
    verification.close()
    kept = {path.stem: load_kept(path) for path in (tmp_path / "worst").glob("*.json")}
    assert {f"numerical-float32-{result}": ratio for result, ratio in seen.items()} == {
        name: case.ratio for name, case in kept.items()
    }
    assert set(seen) >= {"dx", "dw"}


def test_only_the_nightly_profile_drives() -> None:
    """The others are for every day, and for every commit."""
    driving = {
        name: Phase.target in settings.get_profile(name).phases for name in ("dev", "ci", "nightly")
    }
    assert driving == {"dev": False, "ci": False, "nightly": True}


@pytest.mark.parametrize(
    ("name", "words"), [("answers_another_shape", "db.shape = "), ("raises", "raises ")]
)
def test_a_probe_that_measures_nothing_is_red(name: str, words: str) -> None:
    """No answer, or one of another form."""
    probe = "tests/verification/test_precision.py::test_effective_precision"
    options = ("--oracle", f"tests.support.zoo:{name}", probe, "-k", "2d-float32")
    code, output = run_pytest(*options)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"{name} {words}" in output


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_the_smallest_domain_has_probes(kind: GroupKind, rank: int) -> None:
    """Of each kind of groups, with nothing else allowed and as few elements as a box may have."""
    box = Box((rank,), DTYPES, (kind,), "one", "one", "zero", False, max_elements=128)
    domain = Domain(box)
    for dtype in DTYPES:
        asked = list(probes(domain, rank, dtype))
        assert asked
        assert all(map(domain.accepts, asked))
