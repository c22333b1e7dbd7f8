"""The rungs of a certificate: what an oracle is asked on each, from plain problems to everything.

A rung narrows the oracle's domain to plain problems and one thing more, so that a rung that fails
while those below it pass says what the fault needs. Where nothing of the domain is left, the
oracle does not claim that rung.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hypothesis.strategies import SearchStrategy

from oracles.protocol import DTYPES, GROUP_KINDS, KINDS, RESULTS, Box, Domain
from reference.problem import RANKS, ConvProblem
from tests.support import layouts
from tests.support.space import Wish, can_be, problems_like
from tests.support.strategies import Fill, problems, special_problems

PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "stride": "one",
        "dilation": "one",
        "padding": "zero",
        "empty_batch": False,
    }
)
_WORDS = {"y": "forward", "dx": "dX", "dw": "dW", "db": "db"}


@dataclass(frozen=True)
class Rung:
    """One rung: `results` are those judged there, `strategies` what is asked, in equal parts.

    `kinds`, if any, are the kinds of verdict that count there: all others pass.
    """

    name: str
    strategies: tuple[SearchStrategy[ConvProblem], ...]
    results: tuple[str, ...] = RESULTS
    kinds: tuple[str, ...] = ()


def narrowed(domain: Domain, **features: Any) -> Domain | None:
    """The part of `domain` with these values of a Box's fields; None if nothing is left."""
    boxes = [part for box in domain.boxes if (part := _part(box, features)) is not None]
    if not boxes:
        return None
    return Domain(
        *boxes, results=domain.results, exact=domain.exact, accumulation=domain.accumulation
    )


def _part(box: Box, features: Mapping[str, Any]) -> Box | None:
    fewer: dict[str, Any] = {}
    for name, wanted in features.items():
        own = getattr(box, name)
        if isinstance(own, tuple):
            fewer[name] = tuple(value for value in own if value in wanted)
            if not fewer[name]:
                return None
        elif isinstance(own, bool):
            fewer[name] = own and wanted
        else:
            kinds = KINDS[name]  # each has those before it
            fewer[name] = kinds[min(kinds.index(own), kinds.index(wanted))]
    return replace(box, **fewer)


def plain_of(domain: Domain) -> dict[str, Any]:
    """The values of a Box's fields that plain problems of `domain` have."""
    kinds = [kind for kind in GROUP_KINDS if any(kind in box.groups for box in domain.boxes)]
    return {**PLAIN, "groups": (kinds[0],)}


def rungs(domain: Domain) -> Iterator[Rung]:
    """The rungs of an oracle with this domain, the plain ones first."""
    plain = plain_of(domain)
    for result in ("y", "dx", "dw", "db"):
        yield Rung(_WORDS[result], _random(domain, **plain), (result,))
    for rank in RANKS:
        yield Rung(f"rank {rank}", _random(domain, **plain, ranks=(rank,)))
    for name in ("stride", "padding", "dilation"):
        yield Rung(name, _with(domain, name, plain))
    for kind in GROUP_KINDS[1:]:
        yield Rung(f"groups: {kind}", _random(domain, **{**plain, "groups": (kind,)}))
    for dtype in DTYPES:
        yield Rung(dtype, _random(domain, **plain, dtypes=(dtype,)))
    part = narrowed(domain, **plain)
    for layout in layouts.NAMES:
        yield Rung(f"memory: {layout}", _like(part, Wish(layout=layout)))
    yield Rung("precision", _random(domain, "reals", **plain))
    specials = (special_problems(domain, *cell) for cell in domain.cells())
    kinds = ("crashes", "hangs", "malformed", "does not start")
    yield Rung("crash safety", (*_random(domain), *specials), kinds=kinds)


def _random(
    domain: Domain, fill: Fill = "integers", **features: Any
) -> tuple[SearchStrategy[ConvProblem], ...]:
    """Random problems of each rank and dtype of a part of the domain."""
    part = narrowed(domain, **features)
    return () if part is None else tuple(problems(part, *cell, fill) for cell in part.cells())


def _with(
    domain: Domain, name: str, plain: Mapping[str, Any]
) -> tuple[SearchStrategy[ConvProblem], ...]:
    """Plain problems but for this, which they have; none where no box takes more than plain."""
    boxes = [box for box in domain.boxes if getattr(box, name) != plain[name]]
    if not boxes:
        return ()
    more = Domain(*boxes, exact=domain.exact, accumulation=domain.accumulation)
    return _like(narrowed(more, **{**plain, name: "any"}), _WISHES[name])


def _like(domain: Domain | None, wish: Wish) -> tuple[SearchStrategy[ConvProblem], ...]:
    """Problems like `wish` of each rank and dtype that has some."""
    cells = domain.cells() if domain is not None else []
    return tuple(
        problems_like(wish, domain, *cell, "wide")
        for cell in cells
        if domain is not None and can_be(wish, domain, *cell)
    )


_WISHES = {
    "stride": Wish(lambda a: a.stride > 1),
    "padding": Wish(lambda a: a.lo + a.hi > 0),
    "dilation": Wish(lambda a: (a.dilation > 1) & (a.taps > 1)),
}
