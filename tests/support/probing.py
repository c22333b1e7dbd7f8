"""What an oracle takes, found out by asking: its domain, and what becomes of all else.

Every rank, dtype and kind of groups is tried with plain problems, then with each mixture of
strides, dilation and padding; all data are small integers, which every dtype holds. A verification
tries it too, of every oracle, for a table of its report: what is right, refused, wrong or crashes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from oracles.compare import Verdict, judge
from oracles.protocol import DTYPES, GROUP_KINDS, KINDS, RESULTS, Box, Domain, GroupKind
from oracles.registry import Entry
from oracles.worker import Connection, InProcess, Worker
from reference.problem import RANKS, ConvProblem
from tests.support import layouts
from tests.support.independent import INDEPENDENT
from tests.support.strategies import problems
from tests.support.verification import is_weak

RIGHT, KNOWN, REFUSES, WRONG, CRASHES = "right", "known defect", "refuses", "wrong", "crashes"
OUTCOMES = (RIGHT, KNOWN, WRONG, CRASHES, REFUSES)
_OF_KIND = {"agrees": RIGHT, "raises": REFUSES, "differs": WRONG, "malformed": WRONG}
_NARROWEST = "bfloat16"
EACH = 4  # problems of a mixture
_DRAWN = 80  # among which they are looked for
_AXIS = ("stride", "dilation", "padding")
Mixture = tuple[str, ...]
"""A kind of stride, one of dilation and one of padding."""
PLAIN: Mixture = tuple(KINDS[name][0] for name in _AXIS)
_DENSE: dict[str, Any] = {"groups": "one", "mixture": PLAIN, "layout": "C", "empty": False}


@dataclass(frozen=True)
class Place:
    """Where something was tried."""

    rank: int
    dtype: str
    groups: GroupKind
    mixture: Mixture = PLAIN
    layout: str = "C"
    empty: bool = False


class Probe:
    """One oracle, asked for whatever it may not take; `each` is how many problems of a mixture.

    What is `known` to the ledger is not asked. `found` has what became of the problems of a place,
    `wrong` a message for each where they are wrong, `broken` the verdicts on those that lie in the
    oracle's own domain and were not answered rightly.
    """

    def __init__(
        self,
        entry: Entry,
        time_limit: float,
        *,
        each: int = EACH,
        known: Callable[[ConvProblem], bool] = lambda _: False,
    ) -> None:
        results = entry.oracle.domain.results
        anything = Domain(Box(ranks=RANKS, dtypes=DTYPES), results=results)
        self.name = entry.name
        limits = [box.max_elements for box in entry.oracle.domain.boxes]
        self._most = None if None in limits else max(limit for limit in limits if limit)
        self.found: dict[Place, set[str]] = {}
        self.results: set[str] = set()
        self.asked = 0
        self.wrong: dict[Place, str] = {}
        self.broken: list[Verdict] = []
        self._claims = entry.oracle.domain.accepts
        self._each = each
        self._known = known
        self._oracle: Connection = (
            InProcess(entry.name, entry.oracle)
            if entry.ours
            else Worker(
                entry.name,
                anything,
                python=entry.python,
                environment=entry.environment,
                time_limit=time_limit,
                may_ask=lambda _: False,  # nothing is surely taken, so no refusal is a fault
            )
        )

    def run(self, seconds: float = math.inf) -> None:
        """Try everything; what follows from a plain problem that is not right is left out.

        When `seconds` are over the rest is left out too, of all kinds alike.
        """
        until = time.monotonic() + seconds
        plain = [Place(*of) for of in itertools.product(RANKS, DTYPES, GROUP_KINDS)]
        right = [place for place in plain if self.attempt(place) == {RIGHT}]
        others = [other for place in right for other in beside(place)]
        if seconds < math.inf:
            Random(0).shuffle(others)
        for place in others:
            if time.monotonic() < until:
                self.attempt(place)

    def close(self) -> None:
        """End the oracle's processes."""
        self._oracle.close()

    def attempt(self, place: Place) -> set[str]:
        """Ask for problems of one place; returns what became of them."""
        outcomes = self.found.setdefault(place, set())
        for problem in samples(place.rank, place.groups, place.mixture, self._each, self._most):
            asked = _changed(problem, place)
            if self._known(asked):
                outcomes.add(KNOWN)
                continue
            verdict = judge(self._oracle, asked)
            self.asked += 1
            outcomes.add(_OF_KIND.get(verdict.kind, CRASHES))
            if verdict.kind != "agrees" and self._claims(asked):
                self.broken.append(verdict)
            if verdict.kind == "agrees":
                self.results |= {name for name, is_right in verdict.results.items() if is_right}
            elif verdict.kind != "raises":
                self.wrong.setdefault(place, verdict.message.splitlines()[0])
            self._oracle.calm()
        return outcomes

    def accepted(self, rank: int, dtype: str, kind: GroupKind) -> list[Mixture]:
        """The widest mixtures of which all is right, and of those that they include."""
        right = [
            mixture
            for mixture in mixtures(rank)
            if all(
                self.found.get(Place(rank, dtype, kind, less)) == {RIGHT}
                for less in mixtures(rank)
                if includes(mixture, less)
            )
        ]
        return [m for m in right if not any(m != o and includes(o, m) for o in right)]

    def domain(self) -> Domain | None:
        """The domain that was found, with as few boxes as come by themselves; None for none."""
        kinds: dict[tuple[Mixture, int, str], list[GroupKind]] = {}
        for rank, dtype, kind in itertools.product(RANKS, DTYPES, GROUP_KINDS):
            for mixture in self.accepted(rank, dtype, kind):
                kinds.setdefault((mixture, rank, dtype), []).append(kind)
        dtypes: dict[tuple[Any, ...], list[str]] = {}
        for (mixture, rank, dtype), groups in kinds.items():
            dtypes.setdefault((mixture, rank, tuple(groups)), []).append(dtype)
        ranks: dict[tuple[Any, ...], list[int]] = {}
        for (mixture, rank, groups), of in dtypes.items():
            ranks.setdefault((mixture, groups, tuple(of)), []).append(rank)
        empty = all(of == {RIGHT} for place, of in self.found.items() if place.empty)
        boxes = [
            replace(Box(tuple(of), types, groups, empty_batch=empty), **dict(zip(_AXIS, mixture)))
            for (mixture, groups, types), of in ranks.items()
        ]
        results = tuple(name for name in RESULTS if name in self.results)
        return Domain(*boxes, results=results) if boxes else None

    def cells(self) -> dict[str, str]:
        """What became of each row of the table, in words."""
        return {name: self.row(places) for name, places in rows(self.found).items()}

    def row(self, places: Iterable[Place]) -> str:
        """What became of what was tried there, in words; "-" for nothing.

        Of groups only where there is something right without them.
        """
        kept = (
            place
            for place in places
            if place.groups == "one" or self.found.get(replace(place, **_DENSE)) == {RIGHT}
        )
        found = set().union(*(self.found.get(place, set()) for place in kept))
        return " / ".join(outcome for outcome in OUTCOMES if outcome in found) or "-"


def beside(place: Place) -> Iterator[Place]:
    """The same, each with one mixture, or empty, or with one layout."""
    for mixture in mixtures(place.rank):
        if mixture != PLAIN:
            yield replace(place, mixture=mixture)
    yield replace(place, empty=True)
    for layout in layouts.NAMES[1:]:
        yield replace(place, layout=layout)


def mixtures(rank: int) -> list[Mixture]:
    """All mixtures; on one axis all strides are equal."""
    every = itertools.product(*(KINDS[name] for name in _AXIS))
    return [mixture for mixture in every if rank > 1 or mixture[0] != "equal"]


def includes(mixture: Mixture, less: Mixture) -> bool:
    """Whether a box of `mixture` takes problems of `less`."""
    kinds = (KINDS[name] for name in _AXIS)
    return all(of.index(b) <= of.index(a) for of, a, b in zip(kinds, mixture, less))


@lru_cache(maxsize=512)
def samples(
    rank: int, kind: GroupKind, mixture: Mixture, each: int = EACH, most: int | None = None
) -> tuple[ConvProblem, ...]:
    """So many problems with each of these kinds, of `most` elements, in the narrowest dtype."""
    boxed = dict(zip(_AXIS, mixture))
    plain = Box((rank,), (_NARROWEST,), (kind,), empty_batch=False, max_elements=most)
    box = replace(plain, **boxed)  # type: ignore[arg-type]  # of each field, one of its kinds
    narrower = [
        replace(box, **{name: lower})  # type: ignore[arg-type]  # the same
        for name in _AXIS
        for lower in KINDS[name][: KINDS[name].index(boxed[name])]
        if rank > 1 or lower != "equal"
    ]
    found: list[ConvProblem] = []

    @seeded(0)
    @settings(
        max_examples=_DRAWN,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        backend=INDEPENDENT,
    )
    @given(problem=problems(Domain(box), rank, _NARROWEST))
    def draw(problem: ConvProblem) -> None:
        fits = any(other.misfit(problem) is None for other in narrower)
        if not fits and not is_weak(problem):
            found.append(problem)
        if len(found) >= each:
            raise _Enough

    with contextlib.suppress(_Enough):
        draw()
    return tuple(found[:each])


class _Enough(Exception):
    """Nothing more need be drawn."""


def _changed(problem: ConvProblem, place: Place) -> ConvProblem:
    arrays = {
        name: array.astype(place.dtype)
        for name in ("x", "w", "b", "dy")
        if (array := getattr(problem, name)) is not None
    }
    if place.empty:
        arrays |= {name: arrays[name][:0] for name in ("x", "dy")}
    return layouts.laid_out(replace(problem, **arrays), place.layout, exact=True)


def source(domain: Domain) -> str:
    """`domain` as source to paste, without what is the default."""
    boxes = []
    for box in domain.boxes:
        default = Box(box.ranks, box.dtypes)
        own = {
            name: value
            for name, value in vars(box).items()
            if name in ("ranks", "dtypes") or value != getattr(default, name)
        }
        boxes.append(f"Box({', '.join(f'{name}={value!r}' for name, value in own.items())})")
    lines = "".join(f"    {box},\n" for box in boxes)
    return f"domain = Domain(\n{lines}    results={domain.results!r},\n)"


def rows(every: Iterable[Place]) -> dict[str, list[Place]]:
    """The rows of a table of what is taken, and the places that each is about."""
    every = list(every)
    plain = [p for p in every if p.mixture == PLAIN and p.layout == "C" and not p.empty]
    cells = itertools.product(RANKS, DTYPES)
    found = {
        f"{rank}-D {dtype}": [
            p for p in plain if (p.rank, p.dtype, p.groups) == (rank, dtype, "one")
        ]
        for rank, dtype in cells
    }
    found |= {f"groups: {kind}": [p for p in plain if p.groups == kind] for kind in GROUP_KINDS[1:]}
    for mixture in itertools.product(*(KINDS[name] for name in _AXIS)):
        if mixture != PLAIN:
            words = [f"{n} {kind}" for n, kind, no in zip(_AXIS, mixture, PLAIN) if kind != no]
            found[", ".join(words)] = [p for p in every if p.mixture == mixture]
    found["empty batch"] = [p for p in every if p.empty]
    found |= {
        f"memory: {name}": [p for p in every if p.layout == name] for name in layouts.NAMES[1:]
    }
    return found


def matrix(probes: Sequence[Probe]) -> str:
    """What each oracle makes of each rank, dtype and so on, as a Markdown table."""
    cells = [probe.cells() for probe in probes]
    lines = [
        f"| | {' | '.join(probe.name for probe in probes)} |",
        "|---" * (len(probes) + 1) + "|",
    ]
    names = dict.fromkeys(name for of in cells for name in of)
    lines += [f"| {name} | {' | '.join(of.get(name, '-') for of in cells)} |" for name in names]
    return "\n".join(lines)


def discover(entries: Sequence[Entry], time_limit: float) -> str:
    """What is found out of these oracles, as Markdown."""
    probes = [Probe(entry, time_limit) for entry in entries]
    parts = []
    for probe in probes:
        probe.run()
        probe.close()
        print(f"{probe.name}: asked {probe.asked:,} problems", file=sys.stderr, flush=True)
        domain = probe.domain()
        words = source(domain) if domain is not None else "# nothing is right"
        wrong = "".join(
            f"\n# {message}" for message in dict.fromkeys(list(probe.wrong.values())[:EACH])
        )
        parts.append(
            f"{probe.name}, asked {probe.asked:,} problems:\n\n"
            f"```python\nfrom oracles import Box, Domain\n\n{words}{wrong}\n```\n"
        )
    return "\n".join([*parts, matrix(probes)])
