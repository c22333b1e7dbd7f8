"""Which oracles there are, which of them are installed, and how to install the others.

Every module of this package with an oracle's three names is one; its name is the module's.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import oracles
from oracles.protocol import Oracle
from oracles.worker import TIME_LIMIT, Connection, InProcess, Worker


@dataclass(frozen=True)
class Entry:
    """One known oracle: `version` is None where its distribution is not installed."""

    name: str
    oracle: Oracle
    version: str | None

    @property
    def installed(self) -> bool:
        """Whether the oracle can be asked."""
        return self.version is not None

    @property
    def missing(self) -> str:
        """The sentence for an oracle that is not installed, with the line that installs it."""
        wanted = _distributions(self.oracle)[0]
        return f"{self.name} is not installed: pip install -c constraints.txt {wanted}"


def names() -> list[str]:
    """The names of all oracles in the tree, sorted."""
    return [entry.name for entry in entries()]


def entries() -> list[Entry]:
    """All oracles in the tree, installed or not, sorted by name; imports no framework."""
    found = []
    for info in pkgutil.iter_modules(oracles.__path__):
        if info.name != "zygote":  # imports this module
            module = importlib.import_module(f"oracles.{info.name}")
            if isinstance(module, Oracle):
                found.append(Entry(info.name, module, _version(module)))
    return sorted(found, key=lambda entry: entry.name)


def find(name: str) -> Entry:
    """The oracle called `name`; raises ValueError that lists the known ones if there is none."""
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"oracle {name!r} is unknown: known are {', '.join(known)}{hint}")
    return known[name]


def connect(
    entry: Entry,
    *,
    in_process: bool = False,
    time_limit: float = TIME_LIMIT,
    told: Callable[[str], None] = lambda _: None,
) -> Connection:
    """What answers problems for `entry`: our own code directly, a framework in its own process.

    `in_process` asks a framework directly too: a crash then ends the run, but a debugger can see
    it. `time_limit` is seconds per problem; `told` hears what is slow, such as an import.
    """
    if in_process or entry.oracle.distribution is None:
        return InProcess(entry.name, entry.oracle)
    return Worker(entry.name, entry.oracle.domain, time_limit=time_limit, told=told)


def _distributions(oracle: Oracle) -> tuple[str, ...]:
    wanted = oracle.distribution
    if wanted is None:
        return ()
    return (wanted,) if isinstance(wanted, str) else wanted


def _version(oracle: Oracle) -> str | None:
    """The version of what `oracle` needs; "" for our own code, None where it is missing."""
    wanted = _distributions(oracle)
    for name in wanted:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None if wanted else ""
