"""PyTorch: autograd over conv1d, conv2d and conv3d, on a channels-last view of x.

Variants take other kernels: `contiguous` copies x to channels-first memory, `native` does without
oneDNN; `cuda` are those of cuDNN on a GPU, `cuda_tf32` the same with TF32, `cuda_native` does
without cuDNN. Others take other ways to the same kernels: `vjp` is torch.func's, `aten` calls
convolution_backward itself, `compiled` goes through torch.compile, as far as AOTAutograd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from oracles.protocol import DTYPES, Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem

if TYPE_CHECKING:
    from torch import Tensor

distribution = "torch"
preload = ("torch", "torch.fx.experimental.symbolic_shapes")  # autograd imports it: half a second
# dW is added up over the batch, and dX over taps, in the 16-bit format itself
# (tests/findings/pytorch_float16_filter_gradient_batch.py).
NARROW = {"float16": "float16", "bfloat16": "bfloat16"}
# bfloat16 is left to `native`: oneDNN's kernels go wrong in many ways, and crash
# (docs/bfloat16.md); records of that are still to be written.
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float16", "float32", "float64")), accumulation=NARROW)


@dataclass(frozen=True)
class Variant:
    """PyTorch asked in one way: whether x is copied to channels-first, and oneDNN is used.

    Without oneDNN there is no NNPACK either.
    """

    contiguous: bool = False
    onednn: bool = True
    device: ClassVar[str] = "cpu"
    distribution: str = distribution
    preload: tuple[str, ...] = preload
    domain: Domain = domain

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW, db and y; asymmetric padding, which conv does not take, goes through F.pad."""
        import torch
        from torch.nn import functional as F

        params = problem.params
        convolve = (F.conv1d, F.conv2d, F.conv3d)[params.rank - 1]
        x, w, dy = (self._tensor(array) for array in (problem.x, problem.w, problem.dy))
        b = None if problem.b is None else self._tensor(problem.b).requires_grad_()
        x, w = x.requires_grad_(), w.requires_grad_()
        moved = x.movedim(-1, 1)
        if self.contiguous:
            moved = moved.clone(memory_format=torch.contiguous_format)
        padding = tuple(lo for lo, _ in params.padding)
        if _is_asymmetric(problem):
            moved, padding = F.pad(moved, _pad_argument(problem)), (0,) * params.rank
        with self._kernels():
            y = convolve(
                moved,
                w.movedim((-1, -2), (0, 1)).contiguous(),  # else: grad_weight must be contiguous
                b,
                stride=params.stride,
                padding=padding,
                dilation=params.dilation,
                groups=params.groups,
            ).movedim(1, -1)
            inputs = [tensor for tensor in (x, w, b) if tensor is not None]
            gradients = torch.autograd.grad(y, inputs, dy)
        dx, dw, *db = map(_to_numpy, gradients)
        return ConvGrads(dx, dw, db[0] if db else None, _to_numpy(y))

    def _tensor(self, array: Array) -> Tensor:
        return _to_torch(array).to(self.device)

    def _kernels(self) -> contextlib.AbstractContextManager[None]:
        """Within it PyTorch takes the kernels of this variant."""
        return _onednn(self.onednn)

    def _settings(self) -> Sequence[str]:
        """The same as source, to be run once."""
        return () if self.onednn else _WITHOUT_ONEDNN

    def script(self, problem: ConvProblem) -> str:
        """The same as source."""
        params = problem.params
        moved = "inputs[0].movedim(-1, 1)"
        if self.contiguous:
            moved = f"{moved}.clone(memory_format=torch.contiguous_format)"
        padding = tuple(lo for lo, _ in params.padding)
        if _is_asymmetric(problem):
            moved, padding = f"F.pad({moved}, {_pad_argument(problem)})", (0,) * params.rank
        to_torch, to_numpy = "torch.from_numpy({})", "{}.contiguous().numpy()"
        if problem.dtype.name == "bfloat16":
            to_torch = "torch.from_numpy({}.view(np.int16)).view(torch.bfloat16)"
            to_numpy = '{}.contiguous().view(torch.int16).numpy().view("bfloat16")'
        if any(map(_must_be_copied, (problem.x, problem.w, problem.dy))):
            to_torch = to_torch.replace("{}", "{}.copy()")
        there, back = ("", "") if self.device == "cpu" else (f".to({self.device!r})", ".cpu()")
        a, dy = to_torch.format("a") + there, to_torch.format("dy") + there
        gradient, y = to_numpy.format(f"g{back}"), to_numpy.format(f"y.detach(){back}")
        lines = [
            "import torch",
            "from torch.nn import functional as F",
            "torch.set_num_threads(1)",
            *self._settings(),
            f"inputs = [{a}.requires_grad_() for a in (x, w, b) if a is not None]",
            f"y = F.conv{params.rank}d(",
            f"    {moved},",
            "    inputs[1].movedim((-1, -2), (0, 1)).contiguous(),",
            f"    {'None' if problem.b is None else 'inputs[2]'},",
            f"    stride={params.stride},",
            f"    padding={padding},",
            f"    dilation={params.dilation},",
            f"    groups={params.groups},",
            ").movedim(1, -1)",
            f"gradients = torch.autograd.grad(y, inputs, {dy})",
            f"dx, dw, db = [*({gradient} for g in gradients), None][:3]",
            f"y = {y}",
        ]
        return "\n".join(lines)


_WITHOUT_ONEDNN = (
    "torch.backends.mkldnn.enabled = False",
    "torch.backends.nnpack.set_flags(False)",  # for batches of 16 and more it transforms, inexactly
)


@contextlib.contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """Use oneDNN, or do without it and NNPACK; mkldnn.flags would warn of something else."""
    import torch

    mkldnn: Any = torch.backends.mkldnn  # whose `enabled` is a property of the module
    before = mkldnn.enabled
    mkldnn.enabled = enabled and before
    nnpack: Any = torch.backends.nnpack  # untyped
    before_nnpack = nnpack.set_flags(enabled)
    try:
        yield
    finally:
        mkldnn.enabled = before
        nnpack.set_flags(*before_nnpack)


def _is_asymmetric(problem: ConvProblem) -> bool:
    return any(lo != hi for lo, hi in problem.params.padding)


def _pad_argument(problem: ConvProblem) -> list[int]:
    """What F.pad takes: lo and hi of the last axis first."""
    return [cells for pair in reversed(problem.params.padding) for cells in pair]


def _must_be_copied(array: Array) -> bool:
    """PyTorch has no read-only tensors, and none that run backwards."""
    return not array.flags.writeable or min(array.strides) < 0


def _to_torch(array: Array) -> Tensor:
    """A tensor of the same memory where it can be; both kinds of bfloat16 have the same bits."""
    import torch

    if _must_be_copied(array):
        array = array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_numpy(tensor: Tensor) -> Array:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy()).view("bfloat16")
    return np.asarray(tensor.numpy())


@dataclass(frozen=True)
class Cuda(Variant):
    """PyTorch on a GPU, by cuDNN or without, its float32 cut to TF32 or not; the same each time.

    cuDNN may not choose its algorithm by trying, nor one whose sums come in any order.
    """

    cudnn: bool = True
    tf32: bool = False
    environment: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # else cuBLAS sums in any order
    )
    device: ClassVar[str] = "cuda"
    memory_limit: ClassVar[None] = None  # CUDA maps all memory that there is, and more

    def prepare(self) -> None:
        """Raise RuntimeError where there is no GPU, without a use of it, which a fork would end."""
        import torch

        if torch.version.cuda is None:
            raise RuntimeError(f"torch {torch.__version__} is built without CUDA")
        if torch.cuda.device_count() == 0:
            raise RuntimeError("there is no NVIDIA GPU that CUDA can use")

    @contextlib.contextmanager
    def _kernels(self) -> Iterator[None]:
        import torch

        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, self.tf32
        with torch.backends.cudnn.flags(
            enabled=self.cudnn, benchmark=False, deterministic=True, allow_tf32=self.tf32
        ):
            try:
                yield
            finally:
                matmul.allow_tf32 = before

    def _settings(self) -> Sequence[str]:
        return (
            f"torch.backends.cudnn.enabled = {self.cudnn}",
            "torch.backends.cudnn.deterministic = True",
            f"torch.backends.cudnn.allow_tf32 = {self.tf32}",
            f"torch.backends.cuda.matmul.allow_tf32 = {self.tf32}",
        )


@dataclass(frozen=True)
class Way:
    """Another way to the gradients of what convN computes: `gradients` of y, inputs and dy.

    It is given the function, its tensors x, w and perhaps b, and dy; returns y and the gradients.
    """

    gradients: Callable[[Callable[..., Any], list[Any], Any], tuple[Any, Any]]
    distribution: str = distribution
    preload: tuple[str, ...] = preload
    domain: Domain = domain

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW, db and y."""
        from torch.nn import functional as F

        params = problem.params
        convolve = (F.conv1d, F.conv2d, F.conv3d)[params.rank - 1]
        pads = _pad_argument(problem)

        def forward(x: Any, w: Any, b: Any = None) -> Any:
            moved, kernel = x.movedim(-1, 1), w.movedim((-1, -2), (0, 1)).contiguous()
            y = convolve(
                F.pad(moved, pads),
                kernel,
                b,
                stride=params.stride,
                dilation=params.dilation,
                groups=params.groups,
            )
            return y.movedim(1, -1)

        arrays = [array for array in (problem.x, problem.w, problem.b) if array is not None]
        y, gradients = self.gradients(forward, list(map(_to_torch, arrays)), _to_torch(problem.dy))
        dx, dw, *db = map(_to_numpy, gradients)
        return ConvGrads(dx, dw, db[0] if db else None, _to_numpy(y))


def _by_vjp(forward: Callable[..., Any], inputs: list[Any], dy: Any) -> tuple[Any, Any]:
    import torch

    y, pull_back, *_ = torch.func.vjp(forward, *inputs)
    return y, pull_back(dy)


def _by_compiling(forward: Callable[..., Any], inputs: list[Any], dy: Any) -> tuple[Any, Any]:
    import torch

    torch.compiler.reset()
    compiled = torch.compile(forward, backend="aot_eager", dynamic=False)
    y = compiled(*(tensor.requires_grad_() for tensor in inputs))
    return y, torch.autograd.grad(y, inputs, dy)


@dataclass(frozen=True)
class Aten:
    """The operator that autograd calls, asked directly; asymmetric padding goes through F.pad."""

    distribution: str = distribution
    preload: tuple[str, ...] = preload
    domain: Domain = domain

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW and db; y is not claimed."""
        import torch
        from torch.nn import functional as F

        params, rank = problem.params, problem.params.rank
        padded = F.pad(_to_torch(problem.x).movedim(-1, 1), _pad_argument(problem))
        gradients: Any = torch.ops.aten.convolution_backward(
            _to_torch(problem.dy).movedim(-1, 1),
            padded,
            _to_torch(problem.w).movedim((-1, -2), (0, 1)).contiguous(),
            None if problem.b is None else [problem.w.shape[-1]],
            params.stride,
            [0] * rank,
            params.dilation,
            False,
            [0] * rank,
            params.groups,
            [True, True, problem.b is not None],
        )
        dx, dw, db = gradients
        starts = (pair[0] for pair in params.padding)
        for axis, (size, start) in enumerate(zip(problem.spatial, starts)):
            dx = dx.narrow(axis + 2, start, size)
        return ConvGrads(
            _to_numpy(dx.movedim(1, -1)),
            _to_numpy(dw.movedim((0, 1), (-1, -2))),
            None if problem.b is None else _to_numpy(db),
        )


grads = Variant().grads
script = Variant().script
contiguous = Variant(contiguous=True)
native = Variant(
    onednn=False, domain=Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES), accumulation=NARROW)
)
cuda = Cuda(domain=Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES), accumulation=NARROW))
cuda_tf32 = Cuda(
    tf32=True,
    domain=Domain(Box(ranks=(1, 2, 3), dtypes=("float32",)), factors={"float32": "tfloat32"}),
)
cuda_native = Cuda(
    cudnn=False, domain=Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES), accumulation=NARROW)
)
vjp = Way(_by_vjp)
aten = Aten()
compiled = Way(_by_compiling, preload=(*preload, "torch._dynamo"))
