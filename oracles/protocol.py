"""What an oracle is: the three names, the domain of problems it accepts, and how it can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from reference import layout
from reference.problem import RANKS, Array, ConvGrads, ConvProblem

GroupKind = Literal["one", "some", "depthwise"]
StrideKind = Literal["one", "equal", "any"]
DilationKind = Literal["one", "any"]
PaddingKind = Literal["zero", "symmetric", "any"]

MEMORY_LIMIT = 4 << 30  # bytes that computing may map beyond what the import has
_MARGIN = 64  # bytes on each side of an input
_ALIGNMENT = 64  # bytes
DTYPES = ("float16", "bfloat16", "float32", "float64")
FACTORS = ("tfloat32", "bfloat16")
GROUP_KINDS: tuple[GroupKind, ...] = ("one", "some", "depthwise")
RESULTS = tuple(field.name for field in fields(ConvGrads))
GRADIENTS = ("dx", "dw", "db")
KINDS: dict[str, tuple[str, ...]] = {
    "stride": ("one", "equal", "any"),
    "dilation": ("one", "any"),
    "padding": ("zero", "symmetric", "any"),
}


@dataclass(frozen=True)
class Box:
    """One plain statement of what an oracle takes; any mixture of the listed things is accepted.

    ranks         spatial ranks, of 1, 2, 3
    dtypes        of "float16", "bfloat16", "float32", "float64"
    groups        of "one" (groups = 1), "some" (1 < groups < C), "depthwise" (groups = C > 1)
    stride        "one", "equal" (the same on every axis) or "any"
    dilation      "one" or "any"
    padding       "zero", "symmetric" (lo = hi on every axis) or "any"
    empty_batch   whether N = 0 is taken
    max_elements  most elements that x and that w may have, at least 128; None: no limit
    """

    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    groups: tuple[GroupKind, ...] = GROUP_KINDS
    stride: StrideKind = "any"
    dilation: DilationKind = "any"
    padding: PaddingKind = "any"
    empty_batch: bool = True
    max_elements: int | None = None

    def __post_init__(self) -> None:
        for name, values, allowed in (
            ("ranks", self.ranks, RANKS),
            ("dtypes", self.dtypes, DTYPES),
            ("groups", self.groups, GROUP_KINDS),
        ):
            if not isinstance(values, tuple) or not values or not set(values) <= set(allowed):
                raise ValueError(f"{name}={values!r}: must be a tuple of some of {allowed}")
        if self.max_elements is not None and self.max_elements < 128:
            raise ValueError(f"max_elements={self.max_elements}: must be None or at least 128")
        for name, kinds in KINDS.items():
            if getattr(self, name) not in kinds:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {kinds}")

    def misfit(self, problem: ConvProblem) -> str | None:
        """Why `problem` lies outside this box, in a few words; None if it lies inside."""
        params = problem.params
        stride, dilation, padding = params.stride, params.dilation, params.padding
        elements = max(problem.x.size, problem.w.size)
        checks = (
            (problem.dtype.name in self.dtypes, f"dtype {problem.dtype}"),
            (params.rank in self.ranks, f"rank {params.rank}"),
            (
                group_kind(problem) in self.groups,
                f"groups={params.groups} of C={problem.x.shape[-1]}",
            ),
            (
                self.stride == "any"
                or (self.stride == "equal" and len(set(stride)) == 1)
                or set(stride) == {1},
                f"stride={stride} (must be {self.stride})",
            ),
            (self.dilation == "any" or set(dilation) == {1}, f"dilation={dilation} (must be 1)"),
            (
                self.padding == "any"
                or (self.padding == "symmetric" and all(lo == hi for lo, hi in padding))
                or not any(map(any, padding)),
                f"padding={padding} (must be {self.padding})",
            ),
            (self.empty_batch or problem.x.shape[0] > 0, "an empty batch"),
            (
                self.max_elements is None or elements <= self.max_elements,
                f"{elements} elements (at most {self.max_elements})",
            ),
        )
        return next((words for fits, words in checks if not fits), None)


class Domain:
    """The problems an oracle accepts, the union of its boxes, what it answers, and how it sums.

    `results` are those of dx, dw, db and y that it claims: an answer must have them, db where there
    is a bias. What else is in an answer is verified too.
    `exact` says that products are summed as they are, in any order, so that sums of small integers
    come out exact; Winograd's and Fourier's transforms do not, and are held to a bound that is
    relative to whole samples. `accumulation` names the format in which sums of a dtype are kept
    where that is not float32 for the 16-bit formats, and the dtype itself for others; what is
    multiplied is not rounded to it. `factors` names the format, "tfloat32" or "bfloat16", that x, w
    and dy of float32 are cut to before they are multiplied, as matrix units do, and db's dy.
    `special_values` promises the reference's rule: NaN and Inf go where a product with them goes,
    and a tap in the padding is no product. Few keep to it, and nobody else is held to it.
    """

    def __init__(
        self,
        *boxes: Box,
        results: tuple[str, ...] = GRADIENTS,
        exact: bool = True,
        accumulation: Mapping[str, str] | None = None,
        factors: Mapping[str, str] | None = None,
        special_values: bool = False,
    ) -> None:
        if not boxes or not all(isinstance(box, Box) for box in boxes):
            raise TypeError(f"Domain{boxes!r}: must be given one Box or more")
        if not isinstance(results, tuple) or not results or not set(results) <= set(RESULTS):
            raise ValueError(f"results={results!r}: must be a tuple of some of {RESULTS}")
        for pair in (accumulation or {}).items():
            if not set(pair) <= set(DTYPES):
                raise ValueError(f"accumulation={accumulation!r}: must be of {DTYPES}")
        for pair in (factors or {}).items():
            if pair not in {("float32", name) for name in FACTORS}:
                raise ValueError(
                    f"factors={factors!r}: must be {{'float32': NAME}}, NAME one of {FACTORS}"
                )
        if special_values and not exact:
            raise ValueError(
                "special_values=True, exact=False: a transform spreads NaN and Inf over a sample"
            )
        self.boxes = boxes
        self.results = results
        self.exact = exact
        self.special_values = special_values
        self.accumulation = dict(accumulation or {})
        self.factors = dict(factors or {})

    def __repr__(self) -> str:
        return f"Domain({', '.join(map(repr, self.boxes))})"

    def to_json(self) -> dict[str, Any]:
        """All of it, for another process."""
        return {**vars(self), "boxes": [asdict(box) for box in self.boxes]}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Domain:
        """The domain that `to_json` was called of."""
        boxes: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in box.items()}
            for box in content["boxes"]
        ]
        others = {key: value for key, value in content.items() if key != "boxes"}
        return Domain(
            *(Box(**box) for box in boxes), **{**others, "results": tuple(content["results"])}
        )

    def accepts(self, problem: ConvProblem) -> bool:
        """Whether `problem` lies in one of the boxes."""
        return self.refusal(problem) is None

    def refusal(self, problem: ConvProblem) -> str | None:
        """Why no box takes `problem`, a reason for each that has its rank and dtype; else None."""
        boxes = self.boxes_in(problem.params.rank, problem.dtype.name) or self.boxes
        misfits = [box.misfit(problem) for box in boxes]
        if None in misfits:
            return None
        return "; ".join(dict.fromkeys(words for words in misfits if words))

    def cells(self) -> list[tuple[int, str]]:
        """Every (rank, dtype) of which some problems are accepted."""
        return sorted({(r, d) for box in self.boxes for r in box.ranks for d in box.dtypes})

    def boxes_in(self, rank: int, dtype: str) -> list[Box]:
        """The boxes that hold problems of this rank and dtype."""
        return [box for box in self.boxes if rank in box.ranks and dtype in box.dtypes]


@runtime_checkable
class Oracle(Protocol):
    """Anything that can answer a problem: a module or an object with these three names.

    `distribution` is the installed package whose version goes into reports: its name, several of
    which any one will do, or None for code of our own, which then needs no process of its own.

    Seven more names are optional. `preload`: the modules that its process imports before it forks.
    `environment`: variables that are set in its process, a dict of str to str. `prepare`: a
    function that its process calls before it forks, which raises if what is needed is not there.
    `memory_limit`: how many bytes it may map while it computes, None for as many as it likes, as
    accelerators do. `required`: False
    for one that --require-oracles does without. `installs`: what pip is to be given for it, where
    that is more than the distribution. `script`: a function of a problem that returns
    source which, run where the NumPy arrays x, w, b and dy are, sets dx, dw, db (None without b)
    and y with nothing but the framework; it makes a standalone script.
    """

    distribution: str | tuple[str, ...] | None
    domain: Domain

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The gradients of `problem`, NumPy in and NumPy out; raises for what it refuses."""
        ...


@dataclass(frozen=True)
class Evidence:
    """How a fault was made to show in a new process: `before`, then `problem`, `asks` times.

    `seen_at` is the innocent problem at which it was first seen, None if that was `problem`.
    """

    problem: ConvProblem
    before: tuple[ConvProblem, ...] = ()
    asks: int = 1
    seen_at: ConvProblem | None = None

    def __str__(self) -> str:
        words = f", when asked {self.asks} times in one process" if self.asks > 1 else ""
        if self.before:
            count = len(self.before)
            words += f", after {count} other problem{'s' * (count > 1)} in the same process"
        return words


class OracleError(Exception):
    """An oracle gave no answer, or a wrong one.

    The message is a predicate to follow the oracle's name ("crashes with SIGSEGV"); `log` is what
    its process wrote meanwhile, or a traceback; `evidence` says what made it show again.
    """

    kind = "fails"

    def __init__(self, message: str, log: str = "", evidence: Evidence | None = None) -> None:
        super().__init__(message)
        self.log = log
        self.evidence = evidence


class Differs(OracleError):
    """The oracle's answer is not the reference's."""

    kind = "differs"

    def __init__(
        self,
        message: str,
        log: str = "",
        evidence: Evidence | None = None,
        *,
        grads: ConvGrads,
    ) -> None:
        super().__init__(message, log, evidence)
        self.grads = grads


class Crashed(OracleError):
    """The oracle's process died."""

    kind = "crashes"


class Hung(OracleError):
    """The oracle gave no answer within the time limit."""

    kind = "hangs"


class Raised(OracleError):
    """The oracle raised an exception, which is how it refuses a problem."""

    kind = "raises"


class Malformed(OracleError):
    """The oracle's answer is no set of gradients, or it broke its contract while it computed."""

    kind = "malformed"


class NotStarted(OracleError):
    """The oracle's process could not be started, or it died while it imported the framework."""

    kind = "does not start"


def group_kind(problem: ConvProblem) -> GroupKind:
    """Which kind of groups `problem` has: "one", "some" or "depthwise"."""
    groups, channels = problem.params.groups, problem.x.shape[-1]
    if groups == 1:
        return "one"
    return "depthwise" if groups == channels else "some"


def describe(problem: ConvProblem) -> str:
    """One line that tells what kind of problem this is."""
    params = problem.params
    bias = "bias" if problem.b is not None else "no bias"
    words = (
        f"{params.rank}-D {problem.dtype}, x {problem.x.shape}, w {problem.w.shape}, {bias}, "
        f"stride {params.stride}, padding {params.padding}, dilation {params.dilation}, "
        f"groups {params.groups}"
    )
    for name in ("x", "w", "b", "dy"):
        array = getattr(problem, name)
        if array is not None and (strides := layout.strides_of(array)) is not None:
            words += f", {name} with strides {strides}"
        if array is not None and not array.flags.writeable:
            words += f", {name} read-only"
    return words


class Caller:
    """Asks one oracle, in this process, and sees to it that it keeps to its contract meanwhile."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._last: list[tuple[str, Array, bytes]] = []  # the last answer, and what it was

    def __call__(self, problem: ConvProblem) -> ConvGrads:
        """The oracle's answer to a copy of `problem`, which it must not write to.

        Raises Malformed if it does, if the answer is none, or if this call has changed the answer
        to the one before; and whatever the oracle raises.
        """
        guarded = _Guarded(problem)
        results = self._oracle.domain.results
        grads = check_answer(problem, self._oracle.grads(guarded.problem), results)
        if words := guarded.harm():
            raise Malformed(words)
        last, self._last = self._last, []
        for name, array, content in last:
            if array.tobytes() != content:
                raise Malformed(f"changes {name} of the answer that it gave before")
        for name in ("dx", "dw", "db", "y"):
            array = getattr(grads, name)
            if array is not None and array.dtype != object:
                self._last.append((name, array, array.tobytes()))
        return grads


class _Guarded:
    """A copy of a problem, its arrays one after another in one piece of memory, with margins.

    The margins are NaN in every float type: what is read there, or between the elements of an array
    that has gaps, can be seen in the result. An array keeps its strides.
    """

    def __init__(self, problem: ConvProblem) -> None:
        arrays = {"x": problem.x, "w": problem.w, "b": problem.b, "dy": problem.dy}
        self._spans: list[tuple[str, int, int]] = []
        end = -_MARGIN
        for name, array in arrays.items():
            if array is not None and not array.dtype.hasobject:
                start = end + 2 * _MARGIN + -end % _ALIGNMENT
                elements, _ = layout.extent(array.shape, layout.strides_of(array))
                end = start + elements * array.itemsize
                self._spans.append((name, start, end))
        self._memory = np.full(end + _MARGIN + _ALIGNMENT, 0xFF, np.uint8)
        self._memory = self._memory[-self._memory.ctypes.data % _ALIGNMENT :]
        for name, start, _ in self._spans:
            original = arrays[name]
            assert original is not None
            arrays[name] = layout.placed(original, self._memory.data, start)
        self._before = self._memory.tobytes()
        x, w, b, dy = arrays.values()
        assert x is not None
        assert w is not None
        assert dy is not None
        self.problem = ConvProblem(x, w, b, dy, problem.params)

    def harm(self) -> str:
        """What has been done to the arrays or their margins, in words; "" for nothing."""
        if self._memory.tobytes() == self._before:
            return ""
        place = int(np.argmax(self._memory != np.frombuffer(self._before, np.uint8)))
        name, start, end = min(self._spans, key=lambda s: max(s[1] - place, place - s[2]))
        if place < start:
            return f"writes before the beginning of its input {name}"
        return f"writes {'to' if place < end else 'beyond the end of'} its input {name}"


def check_answer(
    problem: ConvProblem, answer: Any, results: tuple[str, ...] = GRADIENTS
) -> ConvGrads:
    """`answer` if it is a ConvGrads of NumPy arrays for `problem`; raises Malformed otherwise.

    `results` must be among them. Shapes, dtypes and values are left to the comparison.
    """
    if not isinstance(answer, ConvGrads):
        raise Malformed(f"answers with a {type(answer).__name__}, not with a ConvGrads")
    for name in RESULTS:
        value = getattr(answer, name)
        if value is None and (name not in results or (name == "db" and problem.b is None)):
            continue
        if not isinstance(value, np.ndarray):
            raise Malformed(f"answers with {name} a {type(value).__name__}, not a NumPy array")
    return answer
