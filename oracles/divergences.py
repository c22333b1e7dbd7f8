"""The ledger: cases in which a framework is known to be wrong, to crash or to refuse.

Inside a record's predicate that oracle is not asked; everything else still is. A record names its
cause, where upstream knows of it, and a script in tests/findings that shows it. A record applies to
the versions that it names, on processors that have what it needs.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oracles.protocol import group_kind
from reference.problem import ConvProblem, same_padding

_ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
_ISA_WITHOUT = {  # what each limit does without, as flags begin
    **dict.fromkeys(("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), ("avx512", "amx")),
    **dict.fromkeys(("AVX512_CORE", "AVX512_CORE_VNNI"), ("avx512_bf16", "avx512_fp16", "amx")),
    "AVX512_CORE_BF16": ("avx512_fp16", "amx"),
    "AVX512_CORE_FP16": ("amx",),
}


# Variants that come to the kernels of their oracle in another way, and have its defects.
_SAME_KERNELS = {
    **dict.fromkeys(("pytorch:vjp", "pytorch:aten", "pytorch:compiled"), "pytorch"),
    **dict.fromkeys(("tensorflow:function", "tensorflow:keras"), "tensorflow"),
}


@dataclass(frozen=True)
class Divergence:
    """One confirmed, understood case.

    `versions` is a version specifier such as "==2.13.*", `upstream` a link or "not found upstream",
    `script` the file in tests/findings that shows it, needing that framework only, `needs` the
    processor flag, as in /proc/cpuinfo, without which it does not show ("" for none), `lacks` the
    one with which it does not, `variants` those of the oracle's variants that have the defect, ""
    for the oracle itself.
    """

    id: str
    oracle: str
    versions: str
    applies: Callable[[ConvProblem], bool]
    kind: Literal["crash", "wrong", "NaN", "hang", "refuses", "imprecise"]
    cause: str
    upstream: str
    script: str
    needs: str = ""
    lacks: str = ""
    variants: tuple[str, ...] = ("",)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of the oracles that the record speaks of: NAME or NAME:VARIANT."""
        return frozenset(f"{self.oracle}:{variant}".rstrip(":") for variant in self.variants)

    def covers(self, name: str, version: str, environment: Mapping[str, str]) -> bool:
        """Whether the record speaks of this version of the oracle `name`, on this processor.

        `environment` is what is set in the oracle's process beside what is inherited.
        """
        return (
            (name in self.names or _SAME_KERNELS.get(name) in self.names)
            and _in_range(self.versions, version)
            and (not self.needs or _is_used(self.needs, environment))
            and not (self.lacks and _is_used(self.lacks, environment))
        )


def find(
    oracle: str, version: str, problem: ConvProblem, environment: Mapping[str, str] | None = None
) -> Divergence | None:
    """The record of `oracle` at `version` that `problem` falls under, or None."""
    records = records_of(oracle, version, environment)
    return next((record for record in records if record.applies(problem)), None)


def records_of(
    oracle: str, version: str, environment: Mapping[str, str] | None = None
) -> list[Divergence]:
    """What is known of `oracle` at `version` on this processor."""
    return [record for record in LEDGER if record.covers(oracle, version, environment or {})]


def _is_used(flag: str, environment: Mapping[str, str]) -> bool:
    """Whether the processor has `flag`, and oneDNN has not been told to do without."""
    limit = environment.get(_ISA_LIMIT, os.environ.get(_ISA_LIMIT, "")).upper()
    return flag in cpu_flags() and not flag.startswith(_ISA_WITHOUT.get(limit, ()))


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this processor, as Linux names them; none where it is not Linux."""
    return frozenset(" ".join(_cpuinfo("flags", "Features")).split())


@functools.cache
def cpu_vendor() -> str:
    """Who made this processor, as Linux names them: one word, "unknown" where it is not Linux."""
    return next(iter(_cpuinfo("vendor_id", "CPU implementer")), "unknown")


def _cpuinfo(*keys: str) -> list[str]:
    """What Linux says under one of `keys`, of each processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in pairs if key.strip() in keys]


@functools.cache
def _in_range(versions: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet  # comes with pytest; reference needs NumPy only

    return SpecifierSet(versions).contains(version, prereleases=True)


def _several_samples(p: ConvProblem) -> bool:
    return p.params.rank == 3 or p.x.shape[0] > 1


def _is_asked_of_onednn(p: ConvProblem) -> bool:
    """PyTorch keeps one small 2-D sample for itself: use_mkldnn in ATen/native/Convolution.cpp."""
    padded = math.prod(size + lo + hi for size, (lo, hi) in zip(p.spatial, p.params.padding))
    return _several_samples(p) or min(p.kernel) > 3 or padded * p.x.shape[-1] > 20_480


def _one_output_column(p: ConvProblem, *, samples: Callable[[ConvProblem], bool]) -> bool:
    """One input channel, one output column that a wider kernel reaches with a stride of its own.

    `samples` says whether the problem has enough of them.
    """
    out, stride = p.dy.shape[1:-1], p.params.stride
    return (
        p.dtype == "float32"
        and samples(p)
        and p.params.rank >= 2
        and p.x.shape[-1] == 1
        and p.kernel[-1] > 1
        and p.params.dilation[-1] == 1
        and stride[-1] > 1
        and stride[-2] == 1
        and out[-1] == 1
        and out[-2] > 1
    )


def _strided_1x1(p: ConvProblem, *, vector: int, outputs: int) -> bool:
    """A strided kernel of one tap, fewer channels than a vector has floats, more than `outputs`.

    With one thread so many outputs a sample are needed for the workspace to be too small.
    """
    return (
        p.dtype == "float32"
        and p.params.rank <= 2
        and set(p.kernel) == {1}
        and max(p.params.stride) > 1
        and p.params.groups == 1
        and p.x.shape[-1] < vector
        and math.prod(p.dy.shape[1:-1]) > outputs
    )


def _columns_in_padding(p: ConvProblem) -> bool:
    """No tap of any output reads input on the last axis, which is strided and dilated."""
    stride, dilation, (lo, _) = p.params.stride[-1], p.params.dilation[-1], p.params.padding[-1]
    outputs, size = p.dy.shape[-2], p.x.shape[-2]
    cells = (o * stride + k * dilation - lo for o in range(outputs) for k in range(p.kernel[-1]))
    return (
        stride > 1
        and dilation > 1
        and outputs > 1
        and all(low == high for low, high in p.params.padding)  # else F.pad comes first
        and not any(0 <= cell < size for cell in cells)
    )


def _conv3d_same_tail(p: ConvProblem) -> bool:
    """SAME padding that is not all zero, and an axis whose last cells no window needs."""
    params = p.params
    same = same_padding(p.spatial, p.kernel, params.stride, params.dilation)
    reach = ((o - 1) * s + e for o, s, e in zip(p.dy.shape[1:-1], params.stride, p.extent))
    return (
        params.rank == 3
        and set(params.dilation) == {1}
        and params.padding == same != ((0, 0),) * 3
        and any(cells < size for cells, size in zip(reach, p.spatial))
    )


def _one_column_float16(p: ConvProblem, result: str) -> bool:
    """One tap and column of the last axis, which dilation makes more of, and a rest of channels.

    That is of what is summed over in float16: channels of x for y, filters of a group for dX.
    """
    channels, filters = p.w.shape[-2], p.w.shape[-1] // p.params.groups
    terms, columns = {"y": (channels, p.dy.shape[-2]), "dx": (filters, p.x.shape[-2])}[result]
    return (
        p.dtype == "float16"
        and p.params.rank >= 2
        and p.kernel[-1] == 1
        and columns <= p.params.dilation[-1]
        and terms > 32
        and terms % 32 > 0
    )


def _fused_depthwise(p: ConvProblem) -> bool:
    """Where `oracles.tensorflow` has depthwise_conv2d pad explicitly, and adds a bias."""
    params = p.params
    return (
        _is_depthwise(p)
        and p.b is not None
        and p.dtype.name in ("float16", "float32")
        and len(set(params.stride)) == 1
        and set(params.dilation) == {1}
        and any(map(any, params.padding))
        and params.padding != same_padding(p.spatial, p.kernel, params.stride, params.dilation)
    )


def _swapped_operands(p: ConvProblem) -> bool:
    """dX has fewer taps with dy as the kernel, and an axis that XLA takes for one of groups.

    Source: xla/hlo/transforms/simplifiers/conv_operand_swapper.cc, to which dX is a convolution of
    dy, spread by the stride, with w. What it asks of an axis of groups holds of two taps over a dy
    that is spread by 2 and not padded; it does not ask for two outputs, but leaves the axis a
    window that is right for two only.
    """
    params, out = p.params, p.dy.shape[1:-1]
    is_wrong, taps, swapped = False, 1, 1
    for size, k, s, d, (lo, _), o in zip(
        p.spatial, p.kernel, params.stride, params.dilation, params.padding, out
    ):
        before, after = (k - 1) * d - lo, size - 1 + lo - (o - 1) * s
        is_bare = before == after == 0 and d == 1
        is_of_groups = is_bare and k == s == 2
        is_wrong |= is_of_groups and o != 2
        if not is_of_groups and not (is_bare and s == 1 and k == o):
            is_full = o == d == 1 and before == after == k - 1
            taps, swapped = taps * k, swapped * (k if is_full else o)
    return params.groups == 1 and is_wrong and taps > swapped


def _swapped_operands_in_tensorflow(p: ConvProblem) -> bool:
    """The same where `oracles.tensorflow` does not pad x before, which leaves no such axis."""
    params = p.params
    is_explicit = params.rank == 2 and set(params.dilation) == {1}
    is_same = params.padding == same_padding(p.spatial, p.kernel, params.stride, params.dilation)
    return _swapped_operands(p) and (is_explicit or is_same)


def _equal_sizes(p: ConvProblem) -> bool:
    """With a stride of 1 dy has as many elements as the dilated w, and each has a longer axis."""
    sides = zip(p.spatial, p.params.padding, p.extent)
    out = [size + lo + hi - extent + 1 for size, (lo, hi), extent in sides]
    return (
        p.x.shape[0] * math.prod(out) == p.x.shape[-1] * math.prod(p.extent)
        and any(o > extent for o, extent in zip(out, p.extent))
        and any(o < extent for o, extent in zip(out, p.extent))
    )


def _is_depthwise(p: ConvProblem) -> bool:
    return p.params.rank == 2 and group_kind(p) == "depthwise"


def _empty(p: ConvProblem, dtype: str) -> bool:
    return p.dtype == dtype and p.x.shape[0] == 0


def _empty_depthwise(p: ConvProblem) -> bool:
    return _is_depthwise(p) and p.x.shape[0] == 0


# TensorFlow's oneDNN kernels do not take these, but for float16 with AVX512-FP16
_WITHOUT_ONEDNN = ("float16", "float64")
# Every script has been run with the first and the last of these.
_TENSORFLOW, _PYTORCH, _JAX = ">=2.20,<2.22", ">=2.11,<2.14", ">=0.9,<0.11"
_AUTOGRAD = ">=1.8,<1.10"
_BOTH = (("tensorflow", _TENSORFLOW), ("pytorch", _PYTORCH))  # built on one oneDNN

LEDGER: tuple[Divergence, ...] = (
    *(
        Divergence(
            id=f"{oracle}-one-output-column",
            oracle=oracle,
            versions=versions,
            applies=functools.partial(_one_output_column, samples=samples),
            kind="wrong",
            cause="oneDNN's brg_conv_fwd leaves y unwritten or reads outside the input",
            upstream="not found upstream",
            script=f"{oracle}_one_output_column.py",
            needs="avx512f",
        )
        for (oracle, versions), samples in zip(_BOTH, (_several_samples, _is_asked_of_onednn))
    ),
    *(
        Divergence(
            id=f"{oracle}-strided-1x1-filter-heap{suffix}",
            oracle=oracle,
            versions=versions,
            applies=functools.partial(_strided_1x1, vector=vector, outputs=outputs),
            kind="crash",
            cause="oneDNN's jit_1x1 backward weights writes past its workspace",
            upstream="https://github.com/uxlfoundation/oneDNN/issues/6035",
            script=f"{oracle}_strided_1x1_filter_heap.py",
            needs=needs,
            lacks=lacks,
        )
        for oracle, versions in _BOTH
        for suffix, vector, outputs, needs, lacks in (
            ("", 16, 512, "avx512f", ""),
            ("-avx2", 8, 4, "", "avx512f"),
        )
    ),
    Divergence(
        id="pytorch-columns-in-padding",
        oracle="pytorch",
        versions=_PYTORCH,
        applies=lambda p: p.dtype == "float32" and p.b is not None and _columns_in_padding(p),
        kind="crash",
        cause="oneDNN's brgemm calls a kernel that it has not made, in perform_outwork",
        upstream="https://github.com/pytorch/pytorch/issues/195394",
        script="pytorch_columns_in_padding.py",
    ),
    Divergence(
        id="pytorch-columns-in-padding-float16",
        oracle="pytorch",
        variants=("", "contiguous"),
        versions=_PYTORCH,
        applies=lambda p: p.dtype == "float16" and p.x.shape[0] > 0 and _columns_in_padding(p),
        kind="crash",
        cause="the same, without a bias and in channels-first memory too",
        upstream="https://github.com/pytorch/pytorch/issues/195394",
        script="pytorch_columns_in_padding_float16.py",
        needs="avx512_fp16",
    ),
    Divergence(
        id="tensorflow-conv3d-same",
        oracle="tensorflow",
        versions=_TENSORFLOW,
        applies=lambda p: p.dtype.name in _WITHOUT_ONEDNN and _conv3d_same_tail(p),
        kind="wrong",
        cause="conv3d's SAME does not clamp a negative total padding to 0",
        upstream="not found upstream",
        script="tensorflow_conv3d_float64_same.py",
    ),
    Divergence(
        id="tensorflow-native-conv3d-same",
        oracle="tensorflow",
        variants=("native",),
        versions=_TENSORFLOW,
        applies=_conv3d_same_tail,
        kind="wrong",
        cause="conv3d's SAME does not clamp a negative total padding to 0",
        upstream="not found upstream",
        script="tensorflow_conv3d_float64_same.py",
    ),
    *(
        Divergence(
            id=f"tensorflow-empty-batch-shape{suffix}",
            oracle="tensorflow",
            versions=_TENSORFLOW,
            applies=functools.partial(_empty, dtype=dtype),
            kind="wrong",
            cause="the oneDNN kernels return the input's shape for an empty batch",
            upstream="not found upstream",
            script=f"tensorflow_empty_batch_shape{suffix.replace('-', '_')}.py",
            needs=needs,
        )
        for suffix, dtype, needs in (("", "float32", ""), ("-float16", "float16", "avx512_fp16"))
    ),
    *(
        Divergence(
            id=f"tensorflow-one-column-float16-{result}",
            oracle="tensorflow",
            versions=_TENSORFLOW,
            applies=functools.partial(_one_column_float16, result=result),
            kind="wrong",
            cause="oneDNN's brg_conv_fwd in float16 adds what lies behind the last 32 channels",
            upstream="not found upstream",
            script="tensorflow_float16_one_column.py",
            needs="avx512_fp16",
        )
        for result in ("y", "dx")
    ),
    Divergence(
        id="tensorflow-depthwise-empty-batch",
        oracle="tensorflow",
        versions=_TENSORFLOW,
        applies=lambda p: p.dtype.name in _WITHOUT_ONEDNN and _empty_depthwise(p),
        kind="wrong",
        cause="the filter gradient is allocated and never written",
        upstream="https://github.com/tensorflow/tensorflow/pull/126484",
        script="tensorflow_depthwise_empty_batch.py",
    ),
    Divergence(
        id="tensorflow-native-depthwise-empty-batch",
        oracle="tensorflow",
        variants=("native",),
        versions=_TENSORFLOW,
        applies=_empty_depthwise,
        kind="wrong",
        cause="the filter gradient is allocated and never written",
        upstream="https://github.com/tensorflow/tensorflow/pull/126484",
        script="tensorflow_depthwise_empty_batch.py",
    ),
    Divergence(
        id="tensorflow-function-depthwise-explicit-padding",
        oracle="tensorflow",
        variants=("function",),
        versions=_TENSORFLOW,
        applies=_fused_depthwise,
        kind="crash",
        cause="fused with bias_add, depthwise_conv2d has no list of its explicit paddings",
        upstream="not found upstream",
        script="tensorflow_depthwise_explicit_padding_fused.py",
    ),
    Divergence(
        id="autograd-equal-sizes",
        oracle="autograd",
        versions=_AUTOGRAD,
        applies=_equal_sizes,
        kind="refuses",
        cause="scipy.signal.convolve exchanges its operands without end",
        upstream="not found upstream",
        script="autograd_equal_sizes.py",
    ),
    *(
        Divergence(
            id=f"{oracle}-swapped-operands",
            oracle=oracle,
            variants=(variant,),
            versions=versions,
            applies=applies,
            kind="crash",
            cause="XLA exchanges the operands of dX, and gives one axis the wrong window",
            upstream="not found upstream",
            script=f"{oracle}_swapped_operands.py",
        )
        for oracle, variant, versions, applies in (
            ("jax", "", _JAX, _swapped_operands),
            ("tensorflow", "xla", _TENSORFLOW, _swapped_operands_in_tensorflow),
        )
    ),
)
