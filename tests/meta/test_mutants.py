"""The mutants: every reported fault is there, each is wrong, and what they are made of is right."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from oracles.compare import judge, reference_grads
from oracles.protocol import DTYPES
from oracles.registry import connect, find
from oracles.worker import InProcess
from reference import ConvParams, ConvProblem
from reference.problem import output_size
from reference.rounding import RESULTS
from tests.support import layouts
from tests.support.mutants import ALLOWED, DROPPED, MUTANTS, oracle_name
from tests.support.mutants.fault import EVERYTHING, Mutant
from tests.support.space import various
from tests.support.strategies import Fill, special_problems

REPORTED = """
db_batch_not_reduced db_expanded_gy_counted_once db_keepdims db_last_partial_batch_dropped
db_low_precision_running_sum db_zero_when_dw_not_wanted dw_batch_index_16bit dw_border_clamped
dw_dead_taps_garbage dw_divided_by_positions dw_double_overhang_windows_skipped dw_extra_taps_kept
dw_f16_intermediate_overflow dw_garbage_iw_lt_sw dw_group_strided_im2col dw_gy_expanded_misread
dw_multiplier_order_swapped dw_nan_swallowed dw_only_last_sample dw_padding_reads_previous_row
dw_scaled_previous_contents dw_stride0_for_all_axes dw_stride_dilation_not_exchanged
dw_stride_ignored dw_subnormals_flushed dw_taps_transposed_hw dw_uninitialised_when_empty
dw_vector_tail_dropped dw_workspace_overrun dw_zero_when_dx_not_wanted
dx_assign_instead_of_accumulate dx_border_clamped dx_dilation_ignored dx_empty_batch_shape
dx_fft_leak_into_zeros dx_first_row_excluded dx_groups_interleaved dx_iw_small_and_strided
dx_kernel_not_flipped dx_last_odd_sample_missing dx_layout_not_preserved dx_missing_conjugate
dx_multiplier_only_first dx_nan_leaks_through_zero_mask dx_negative_index_wraps
dx_only_first_subgemm dx_output_padding_zero_filled dx_pad_clamped_to_kernel dx_pad_hi_used_as_lo
dx_pad_symmetrised dx_params_reversed_axes dx_shape_of_covered_input dx_stride_dilation_swapped
dx_vector_tail_dropped dx_weight_oi_transposed dx_zero_weight_skipped grads_wrong_dtype
gy_modified_in_place hang_on_small_channels sigfpe_on_zero
"""

OF_ANOTHER_FORM = {
    "db_batch_not_reduced",
    "db_keepdims",
    "dw_extra_taps_kept",
    "dx_empty_batch_shape",
    "dx_shape_of_covered_input",
    "grads_wrong_dtype",
}
ANSWERING = [name for name, m in MUTANTS.items() if not m.special and not m.needs_process]
SPECIAL = [name for name, mutant in MUTANTS.items() if mutant.special]
FILLS: tuple[tuple[bool, Fill], ...] = ((True, "integers"), (False, "reals"))
CELLS = [(rank, dtype) for rank in (1, 2, 3) for dtype in DTYPES]


def drawn(strategy: SearchStrategy[ConvProblem], count: int, start: int) -> list[ConvProblem]:
    """The same `count` problems every time, others for another `start`."""
    found = []

    @seed(start)
    @settings(
        database=None,
        max_examples=count,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(problem: ConvProblem) -> None:
        found.append(problem)

    collect()
    return found


@lru_cache(maxsize=1)
def random_problems() -> list[ConvProblem]:
    """Problems of every rank and dtype, integers and reals, in every layout."""
    found: list[ConvProblem] = []
    for rank, dtype in CELLS:
        for exact, fill in FILLS:
            for problem in drawn(various(EVERYTHING, rank, dtype, fill), 20, len(found)):
                layout = layouts.NAMES[len(found) % len(layouts.NAMES)]
                found.append(layouts.laid_out(problem, layout, exact=exact))
    order = np.random.default_rng(0).permutation(len(found))
    return [found[place] for place in order]


@lru_cache(maxsize=1)
def problems_with_special_values() -> list[ConvProblem]:
    """Problems with some NaN or Inf."""
    return [
        p
        for rank in (1, 2)
        for p in drawn(special_problems(EVERYTHING, rank, "float32"), 100, rank)
    ]


def counted(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: str = "float32",
    *,
    bias: bool = False,
    **params: int,
) -> ConvProblem:
    """A problem of these shapes whose arrays hold 1, 2, 3, 1, 2, 3 and so on."""
    of = ConvParams.of(x_shape, w_shape, **params)
    dy_shape = (x_shape[0], *output_size(x_shape[1:-1], w_shape[:-2], of), w_shape[-1])
    shapes = (x_shape, w_shape, w_shape[-1:], dy_shape)
    x, w, b, dy = (np.resize(np.array([1, 2, 3], dtype), shape) for shape in shapes)
    return ConvProblem(x, w, b if bias else None, dy, of)


def overflowing() -> ConvProblem:
    """In float16, a sum of finite value whose first two terms are too large together."""
    x = np.array([256, 256, -256], np.float16).reshape(3, 1, 1)
    dy = np.full((3, 1, 1), 200, np.float16)
    return ConvProblem(x, dy[:1], None, dy, ConvParams((1,), ((0, 0),), (1,)))


def directed() -> dict[str, ConvProblem]:
    """Problems for what random ones show seldom or never."""
    return {
        "dw_batch_index_16bit": counted((65_537, 1, 1), (1, 1, 1)),
        "dw_f16_intermediate_overflow": overflowing(),
        "dw_input_index_16bit": counted((1, 40_000, 1), (1, 1, 1)),
        "dx_batch_index_8bit": counted((257, 1, 1), (1, 1, 1)),
        "dx_last_tap_lost_in_wide_padding": counted((1, 3, 1), (4, 1, 1), stride=2, padding=3),
        "y_bias_ignored_with_one_filter": counted((1, 1, 1), (1, 1, 1), bias=True),
    }


def test_every_reported_fault_is_planted_or_dropped() -> None:
    """None is forgotten; of those that are dropped, each says why."""
    assert set(REPORTED.split()) <= set(MUTANTS) | set(DROPPED)
    assert not set(MUTANTS) & set(DROPPED)
    assert all(DROPPED.values())
    assert {name for name, reason in DROPPED.items() if "allowed" in reason} <= set(ALLOWED)


def test_each_is_an_oracle_that_the_registry_finds() -> None:
    """Under the name of its module and its own; it says what is wrong."""
    for name, mutant in (MUTANTS | ALLOWED).items():
        assert find(oracle_name(name)).oracle is mutant
        assert mutant.words
        assert set(mutant.gradients) <= set(RESULTS)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_agrees(name: str) -> None:
    """The loops themselves, and what differs from the reference in its bits only."""
    oracle, differs = InProcess(name, ALLOWED[name]), False
    for problem in random_problems():
        judge(oracle, problem).check()
        right, got = reference_grads(problem), ALLOWED[name].grads(problem)
        for result in RESULTS:
            ours, theirs = getattr(right, result), getattr(got, result)
            if ours is not None:
                differs |= ours.tobytes() != theirs.tobytes() or ours.strides != theirs.strides
    assert differs


@pytest.mark.parametrize("name", ANSWERING)
def test_it_is_wrong(name: str) -> None:
    """Some problem shows it, in each of the results that it spoils, and in no other."""
    mutant = MUTANTS[name]
    oracle, missing = InProcess(name, mutant), set(mutant.gradients)
    directly = directed()
    for problem in [directly[name]] if name in directly else random_problems():
        if not mutant.domain.accepts(problem):
            continue
        verdict = judge(oracle, problem)
        if verdict.kind in ("raises", "malformed"):
            return
        spoilt = {result for result, agrees in verdict.results.items() if agrees is False}
        assert spoilt <= set(mutant.gradients)
        if spoilt:
            form = ".shape" in verdict.message or ".dtype" in verdict.message
            assert form is (name in OF_ANOTHER_FORM)
        missing -= spoilt
        if not missing and spoilt:
            return
    pytest.fail(f"{name} is never wrong in {missing}")


@pytest.mark.parametrize("name", SPECIAL)
def test_it_is_wrong_on_special_values_only(name: str) -> None:
    """On numbers it agrees; on NaN and Inf it is not what the reference is."""
    mutant = MUTANTS[name]
    oracle = InProcess(name, mutant)
    accepted = [problem for problem in random_problems() if mutant.domain.accepts(problem)]
    for problem in accepted[:100]:
        judge(oracle, problem).check()
    assert any(differs_on(mutant, problem) for problem in problems_with_special_values())


def differs_on(mutant: Mutant, problem: ConvProblem) -> bool:
    """Whether some result is not the reference's, NaN for NaN."""
    right, wrong = reference_grads(problem), mutant.grads(problem)
    return any(
        not np.array_equal(getattr(right, name), getattr(wrong, name), equal_nan=True)
        for name in mutant.gradients
        if getattr(right, name) is not None
    )


@pytest.mark.parametrize(
    ("name", "kind", "problems"),
    [
        ("sigfpe_on_zero", "crashes", [counted((0, 1, 1), (1, 1, 1))]),
        ("hang_on_small_channels", "hangs", [counted((1, 3, 1), (1, 1, 1), stride=2)]),
        ("dw_workspace_overrun", "crashes", [counted((1, 3, 1), (1, 1, 1), stride=2)]),
        ("dw_scaled_previous_contents", "differs", 2 * [counted((1, 1, 1), (1, 1, 1))]),
        ("dw_buffer_reused", "malformed", [counted((n, 1, 1), (1, 1, 1)) for n in (1, 2)]),
        (
            "kernel_cached_by_shape",
            "differs",
            [
                counted((1, 4, 1), (2, 1, 1), stride=stride, padding=padding)
                for stride, padding in ((1, 0), (2, 1))
            ],
        ),
    ],
)
def test_it_is_wrong_in_a_process(name: str, kind: str, problems: list[ConvProblem]) -> None:
    """What crashes, hangs, or remembers."""
    assert MUTANTS[name].needs_process
    oracle = connect(find(oracle_name(name)), time_limit=1)
    try:
        verdicts = [judge(oracle, problem) for problem in problems]
    finally:
        oracle.close()
    assert [verdict.kind for verdict in verdicts] == ["agrees"] * (len(problems) - 1) + [kind]


def test_all_that_need_a_process_are_asked_in_one() -> None:
    """None is missing above."""
    [marks] = [m for m in test_it_is_wrong_in_a_process.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in marks.args[1]} == {n for n, m in MUTANTS.items() if m.needs_process}
