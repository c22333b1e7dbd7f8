"""The rungs of a certificate: what an oracle is asked on each, from plain problems to everything.

A rung narrows the oracle's domain to plain problems and one thing more, so that a rung that fails
while those below it pass says what the fault needs. Where nothing of the domain is left, the
oracle does not claim that rung.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hypothesis.strategies import SearchStrategy

from oracles.protocol import DTYPES, GRADIENTS, GROUP_KINDS, KINDS, RESULTS, Box, Domain
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
    return _like_in_sums(domain, boxes, domain.results)


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


def plain_part(domain: Domain, **features: Any) -> Domain | None:
    """The plain problems of `domain`, but for `features`; None if there are none.

    In each rank and dtype they have the simplest kind of groups that it takes.
    """
    boxes: list[Box] = []
    for rank, dtype in domain.cells():
        own = domain.boxes_in(rank, dtype)
        kinds = [kind for kind in GROUP_KINDS if any(kind in box.groups for box in own)]
        wanted = {**PLAIN, "groups": kinds[:1], **features}
        part = narrowed(domain, ranks=(rank,), dtypes=(dtype,), **wanted)
        boxes += [] if part is None else part.boxes
    return _like_in_sums(domain, boxes)


def _like_in_sums(
    domain: Domain, boxes: Sequence[Box], results: tuple[str, ...] = GRADIENTS
) -> Domain | None:
    """A domain of `boxes` with the sums of `domain`; None without boxes."""
    if not boxes:
        return None
    return Domain(
        *boxes,
        results=results,
        exact=domain.exact,
        accumulation=domain.accumulation,
        factors=domain.factors,
    )


def rungs(domain: Domain) -> Iterator[Rung]:
    """The rungs of an oracle with this domain, the plain ones first."""
    plain = plain_part(domain)
    for result in ("y", "dx", "dw"):
        yield Rung(_WORDS[result], _random(plain), (result,))
    yield Rung(_WORDS["db"], _like(plain, Wish(bias=True)), ("db",))
    for rank in RANKS:
        yield Rung(f"rank {rank}", _random(_some(plain, ranks=(rank,))))
    for name, wish in _WISHES.items():
        yield Rung(name, _like(_more(domain, name), wish))
    for kind in GROUP_KINDS[1:]:
        yield Rung(f"groups: {kind}", _random(plain_part(domain, groups=(kind,))))
    for dtype in DTYPES:
        yield Rung(dtype, _random(_some(plain, dtypes=(dtype,))))
    for layout in layouts.NAMES:
        yield Rung(f"memory: {layout}", _like(plain, Wish(layout=layout)))
    yield Rung("precision", _random(plain, "reals"))
    specials = (special_problems(domain, *cell) for cell in domain.cells())
    kinds = ("crashes", "hangs", "malformed", "does not start")
    yield Rung("crash safety", (*_random(domain), *specials), kinds=kinds)


def _some(domain: Domain | None, **features: Any) -> Domain | None:
    return None if domain is None else narrowed(domain, **features)


def _more(domain: Domain, name: str) -> Domain | None:
    """What of `domain` is plain but for this, in the boxes that have more than plain of it."""
    boxes = [box for box in domain.boxes if getattr(box, name) != PLAIN[name]]
    more = _like_in_sums(domain, boxes)
    return None if more is None else plain_part(more, **{name: "any"})


def _random(
    domain: Domain | None, fill: Fill = "integers"
) -> tuple[SearchStrategy[ConvProblem], ...]:
    """Random problems of each rank and dtype."""
    return () if domain is None else tuple(problems(domain, *cell, fill) for cell in domain.cells())


def _like(domain: Domain | None, wish: Wish) -> tuple[SearchStrategy[ConvProblem], ...]:
    """Problems like `wish` of each rank and dtype that has some."""
    if domain is None:
        return ()
    cells = [cell for cell in domain.cells() if can_be(wish, domain, *cell)]
    return tuple(problems_like(wish, domain, *cell, "wide") for cell in cells)


_WISHES = {
    "stride": Wish(lambda a: a.stride > 1),
    "padding": Wish(lambda a: a.lo + a.hi > 0),
    "dilation": Wish(lambda a: (a.dilation > 1) & (a.taps > 1)),
}
