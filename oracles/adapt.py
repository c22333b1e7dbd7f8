"""Oracles of other shapes: a plain function, channels-first arrays.

@oracle(ranks=(2,), dtypes=("float32",), layout="channels-first")
def backward(x, w, dy, stride, padding, dilation, groups):
    ...
    return dx, dw, db
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from oracles.protocol import DTYPES, GRADIENTS, MEMORY_LIMIT, RESULTS, Box, Domain, Malformed
from reference.problem import RANKS, Array, ConvGrads, ConvProblem

ARGUMENTS = ("x", "w", "b", "dy", "stride", "padding", "dilation", "groups")
STANDARD = tuple(name for name in ARGUMENTS if name != "b")
LAYOUTS = ("channels-last", "channels-first")
UNDECLARED = Domain(Box(ranks=RANKS, dtypes=DTYPES), results=("dx", "dw"))
_BOX = tuple(of_box.name for of_box in fields(Box))


@dataclass(eq=False)
class Function:
    """An oracle whose answers are those of a plain function.

    `function` takes some of x, w, b, dy, stride, padding, dilation and groups, by these names, and
    returns a ConvGrads or its results in the order of the domain's `results`, those beyond them in
    the order dx, dw, db, y. Where it is given no b, it is added to y. With the layout
    "channels-first" arrays are x (N, C, *S), w (F, C/groups, *K) and dy (N, F, *O); `contiguous`
    copies them to C order. `declared` says that somebody has given the domain.
    """

    function: Callable[..., Any]
    domain: Domain
    layout: str = LAYOUTS[0]
    contiguous: bool = False
    distribution: str | tuple[str, ...] | None = None
    preload: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_limit: int | None = MEMORY_LIMIT
    declared: bool = True

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: must be one of {LAYOUTS}")
        for name in arguments_of(self.function):
            if name not in ARGUMENTS:
                raise TypeError(
                    f"{self.name}({name}=...): a function that is an oracle takes some of "
                    f"{', '.join(ARGUMENTS)}{suggestion(name, ARGUMENTS)}"
                )

    @property
    def name(self) -> str:
        """What the function is called."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The function itself."""
        return self.function(*arguments, **named)

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """What the function answers, as channels-last arrays.

        Raises NotImplementedError for what its declared domain does not have: it may have no
        argument for that.
        """
        if self.declared and (reason := self.domain.refusal(problem)) is not None:
            raise NotImplementedError(f"{self.name} does not take {reason}")
        params = problem.params
        values: dict[str, Any] = {
            "x": self._shown(problem.x, (-1,), (1,)),
            "w": self._shown(problem.w, (-1, -2), (0, 1)),
            "b": problem.b,
            "dy": self._shown(problem.dy, (-1,), (1,)),
            "stride": params.stride,
            "padding": params.padding,
            "dilation": params.dilation,
            "groups": params.groups,
        }
        names = arguments_of(self.function)
        if has_signature(self.function):
            answer = self.function(**{name: values[name] for name in names})
        else:
            answer = self.function(*(values[name] for name in names))
        if isinstance(answer, ConvGrads):
            results: dict[str, Any] = {name: getattr(answer, name) for name in RESULTS}
        else:
            results = self._named(answer)
        shown = {
            "dx": self._hidden(results["dx"], (1,), (-1,)),
            "dw": self._hidden(results["dw"], (0, 1), (-1, -2)),
            "db": None if problem.b is None else results["db"],
            "y": self._hidden(results["y"], (1,), (-1,)),
        }
        if shown["y"] is not None and problem.b is not None and "b" not in names:
            shown["y"] = shown["y"] + problem.b
        return ConvGrads(**shown)

    def _named(self, answer: Any) -> dict[str, Any]:
        """What the function has returned, by result; raises Malformed if that cannot be told."""
        names = self.domain.results
        values = answer if isinstance(answer, (tuple, list)) else (answer,)
        if len(values) > len(names) and names == RESULTS[: len(names)]:
            names = RESULTS[: len(values)]
        if len(values) != len(names):
            raise Malformed(
                f"returns {len(values)} result{'s' * (len(values) != 1)}, but claims "
                f"{', '.join(names)}: say what it returns with results=('dx', ...)"
            )
        return {**dict.fromkeys(RESULTS), **dict(zip(names, values))}

    def _shown(self, array: Array, source: tuple[int, ...], target: tuple[int, ...]) -> Array:
        """A channels-last array as the function wants it."""
        if self.layout != LAYOUTS[0]:
            array = np.moveaxis(array, source, target)
        return np.ascontiguousarray(array) if self.contiguous else array

    def _hidden(self, array: Any, source: tuple[int, ...], target: tuple[int, ...]) -> Any:
        """The function's array as a channels-last one, if it is an array of that kind."""
        if self.layout == LAYOUTS[0] or not isinstance(array, np.ndarray) or array.ndim < 3:
            return array
        return np.moveaxis(array, source, target)


def oracle(
    function: None = None,
    /,
    *,
    layout: str = LAYOUTS[0],
    contiguous: bool = False,
    results: tuple[str, ...] = GRADIENTS,
    distribution: str | tuple[str, ...] | None = None,
    preload: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    memory_limit: int | None = MEMORY_LIMIT,
    exact: bool = True,
    accumulation: Mapping[str, str] | None = None,
    factors: Mapping[str, str] | None = None,
    special_values: bool = False,
    **box: Any,
) -> Callable[[Callable[..., Any]], Function]:
    """Make an oracle of a function: see `Function` for how it is called, `Box` for what it takes.

    `ranks` and `dtypes` must be given, the others of `Box` may be; `results` are what it returns;
    `exact`, `accumulation`, `factors` and `special_values` are as for `Domain`, `memory_limit` as
    for `Oracle`. Raises TypeError or ValueError that names the argument.
    """
    if function is not None or not {"ranks", "dtypes"} <= set(box):
        raise TypeError(
            "@oracle: must be told what the function takes, such as "
            '@oracle(ranks=(2,), dtypes=("float32",))'
        )
    for name in box:
        if name not in _BOX:
            raise TypeError(f"@oracle({name}=...): unknown{suggestion(name, (*_BOX, *_OWN))}")
    domain = Domain(
        Box(**box),
        results=results,
        exact=exact,
        accumulation=accumulation,
        factors=factors,
        special_values=special_values,
    )

    def adapted(function: Callable[..., Any]) -> Function:
        return Function(
            function,
            domain,
            layout,
            contiguous,
            distribution,
            preload,
            environment or {},
            memory_limit,
        )

    return adapted


_OWN = tuple(inspect.signature(oracle).parameters)[1:-1]


def arguments_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's arguments; the standard ones where they cannot be told."""
    if not has_signature(function):
        return STANDARD
    found = inspect.signature(function).parameters.values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in found):
        return STANDARD
    return tuple(p.name for p in found if p.default is p.empty or p.name in ARGUMENTS)


def has_signature(function: Callable[..., Any]) -> bool:
    """Whether the names of a function's arguments are known; those of one in C may not be."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return True


def suggestion(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Something known that is like `name`, as the end of a sentence; "" if nothing is."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
