"""Which oracles there are, which of them are installed, and how to install the others.

Every module of this package with an oracle's three names is one; its name is the module's. From
outside, "package.module" and "package.module:object" name one too. "NAME@path/to/python" is the
same oracle under another interpreter, for another version or for dependencies that clash.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import oracles
from oracles.protocol import Domain, Oracle
from oracles.worker import TIME_LIMIT, Connection, InProcess, Worker


@dataclass(frozen=True)
class Entry:
    """One known oracle: `version` is None where its distribution is not installed.

    `ours` says that it is code of this project, which cannot crash, and needs no process. `python`
    is the interpreter that its process runs.
    """

    name: str
    oracle: Oracle
    version: str | None
    ours: bool = False
    python: str = sys.executable

    @property
    def base(self) -> str:
        """The name without the interpreter."""
        return self.name.partition("@")[0]

    @property
    def installed(self) -> bool:
        """Whether the oracle can be asked."""
        return self.version is not None

    @property
    def missing(self) -> str:
        """The sentence for an oracle that is not installed, with the line that installs it."""
        wanted = _distributions(self.oracle)[0]
        pip = "pip install -c constraints.txt"
        if self.name != self.base:
            pip = f"{self.python} -m pip install"
        return f"{self.name} is not installed: {pip} {wanted}"


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
                version, ours = _version(module), module.distribution is None
                found.append(Entry(info.name, module, version, ours))
    return sorted(found, key=lambda entry: entry.name)


def find(name: str) -> Entry:
    """The oracle called `name`: in the tree, "package.module[:object]", and "@path/to/python".

    Raises ValueError that says what is known, or what is wrong with the module or interpreter.
    """
    base, _, python = name.removeprefix("oracles.").partition("@")
    if python:
        return _elsewhere(find(base), python)
    known = {entry.name: entry for entry in entries()}
    if base in known:
        return known[base]
    if name.endswith(".py") or name.startswith("."):
        raise ValueError(
            f"oracle {name!r} is a path: give a module as Python imports it, package.module, and "
            "its directory on PYTHONPATH"
        )
    if "." in name or ":" in name:
        return _outside(name)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"oracle {name!r} is unknown: known are {', '.join(known)}{hint}")


def connect(
    entry: Entry,
    *,
    in_process: bool = False,
    time_limit: float = TIME_LIMIT,
    told: Callable[[str], None] = lambda _: None,
) -> Connection:
    """What answers problems for `entry`: our own code directly, all else in its own process.

    `in_process` asks a framework directly too: a crash then ends the run, but a debugger can see
    it. `time_limit` is seconds per problem; `told` hears what is slow, such as an import.
    """
    if in_process or entry.ours:
        return InProcess(entry.name, entry.oracle)
    return Worker(
        entry.name, entry.oracle.domain, python=entry.python, time_limit=time_limit, told=told
    )


def _outside(name: str) -> Entry:
    module_name, _, attribute = name.partition(":")
    try:
        oracle = importlib.import_module(module_name)
        if attribute:
            oracle = getattr(oracle, attribute)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"oracle {name!r} cannot be loaded: {words}") from error
    missing = [part for part in ("distribution", "domain", "grads") if not hasattr(oracle, part)]
    if missing or not isinstance(oracle, Oracle):
        raise ValueError(
            f"oracle {name!r} lacks {', '.join(missing)}: an oracle has the names distribution, "
            "domain and grads"
        )
    if not isinstance(oracle.domain, Domain):
        kind = type(oracle.domain).__name__
        raise ValueError(f"oracle {name!r}: domain must be a Domain(Box(...), ...), not a {kind}")
    if not all(isinstance(wanted, str) for wanted in _distributions(oracle)):
        raise ValueError(
            f"oracle {name!r}: distribution={oracle.distribution!r} must be the name of a package, "
            "a tuple of names, or None"
        )
    return Entry(name, oracle, _version(oracle))


def _elsewhere(entry: Entry, python: str) -> Entry:
    """`entry` under another interpreter, with the version that is installed there."""
    path = shutil.which(python)
    if path is None:
        raise ValueError(f"oracle '{entry.name}@{python}': {python} is no interpreter")
    wanted = _distributions(entry.oracle)
    done = subprocess.run(
        [path, "-c", _PRINT_VERSION, *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(
            f"oracle '{entry.name}@{python}': {python} must be Python 3.11 or newer with NumPy: "
            f"{(done.stderr.strip() or 'it says nothing').splitlines()[-1]}"
        )
    version = done.stdout.strip() or (None if wanted else "")
    return Entry(f"{entry.name}@{python}", entry.oracle, version, python=str(Path(path).absolute()))


_PRINT_VERSION = """
import importlib.metadata, sys
import numpy
assert sys.version_info >= (3, 11), sys.version
for name in sys.argv[1:]:
    try:
        print(importlib.metadata.version(name))
        break
    except importlib.metadata.PackageNotFoundError:
        pass
"""


def _distributions(oracle: Oracle) -> tuple[str, ...]:
    wanted = oracle.distribution
    if wanted is None:
        return ()
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _version(oracle: Oracle) -> str | None:
    """The version of what `oracle` needs; "" for our own code, None where it is missing."""
    wanted = _distributions(oracle)
    for name in wanted:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None if wanted else ""
