"""Oracles from outside the tree: a module, a file or an installed distribution's entry point.

Nobody vouches for such code, so pytest's own process does not import it: another process does, and
describes it (`python -m oracles.outside NAME FD` prints JSON to the file descriptor FD). What that
process dies of is a sentence. "package.module", "path/to/file.py" and the name of an entry point
in the group "conv_oracles" each mean the oracle that is there; ":object" behind one means another.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from oracles.adapt import UNDECLARED, Function, suggestion
from oracles.process import START_LIMIT, ending, environment_of
from oracles.protocol import MEMORY_LIMIT, Domain, Oracle
from oracles.wire import Inbox, decode_problem, encode_problem
from reference.problem import ConvGrads, ConvProblem

GROUP = "conv_oracles"
_ROOMS = ("reference", "oracles", "tests")  # our own code, which can be imported anywhere
_NAMES = ("distribution", "domain", "grads")


@dataclass(eq=False)
class Described:
    """An oracle as the process that imported it has described it; it is imported when asked."""

    name: str
    distribution: str | tuple[str, ...] | None
    domain: Domain
    environment: Mapping[str, str]
    version: str | None
    python: str = sys.executable

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """The oracle's answer, in this process: for a debugger."""
        return load(self.name).grads(problem)


class Scripted(Described):
    """One that can write itself down."""

    def script(self, problem: ConvProblem) -> str:
        """What the oracle's own `script` says; raises ValueError with its error."""
        told = _ask(self.name, self.python, self.environment, encode_problem(problem))
        return str(told["script"])


def is_path(name: str) -> bool:
    """Whether `name` means a file, not a module."""
    return "/" in name or name.startswith(".") or re.search(r"\.py(:|$)", name) is not None


@functools.cache
def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """The oracles that installed distributions have to offer, by name; nothing is imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def exists(name: str) -> bool:
    """Whether `name` can mean something outside the tree; imports nothing."""
    base = name.partition(":")[0]
    if is_path(name) or "." in name or ":" in name or base in entry_points():
        return True
    try:
        return importlib.util.find_spec(base) is not None or Path(base, "__init__.py").is_file()
    except (ImportError, ValueError):
        return False


def describe(
    name: str,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    *,
    undeclared: bool = False,
) -> Oracle:
    """The oracle called `name`; raises ValueError with one sentence on what is wrong with it.

    It is imported by another process, under `python` with these variables, unless it is our own.
    `undeclared` takes a function that does not say what it takes.
    """
    if name.partition(".")[0] in _ROOMS and not is_path(name):
        return checked(name, load(name))
    told = _ask(name, python, environment or {})
    if not told["declared"] and not undeclared:
        raise ValueError(
            f"oracle {name!r} is a function that does not say what it takes: put "
            '@oracle(ranks=(2,), dtypes=("float32",)) over it (from oracles import oracle), or '
            f"let `python -m oracles certify {name} --discover` find it out"
        )
    kind = Scripted if told["scripted"] else Described
    distribution = told["distribution"]
    return kind(
        name,
        tuple(distribution) if isinstance(distribution, list) else distribution,
        Domain.from_json(told["domain"]),
        told["environment"],
        told["version"],
        python,
    )


def _ask(
    name: str, python: str, environment: Mapping[str, str], problem: bytes = b""
) -> dict[str, Any]:
    """What the process that imports `name` tells of it; with a problem, its script for that."""
    about = f"oracle {name!r} cannot be loaded"
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as log:
        try:
            done = subprocess.run(
                [python, "-P", "-m", "oracles.outside", name, str(answer.fileno())],
                input=problem,
                stdout=log,
                stderr=log,
                pass_fds=[answer.fileno()],
                env=environment_of(python, environment),
                timeout=START_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"{about}: no import within {START_LIMIT:g} s") from None
        answer.seek(0)
        log.seek(0)
        text, wrote = answer.read(), log.read().decode(errors="replace").strip().splitlines()
    try:
        told: dict[str, Any] = json.loads(text)
    except ValueError:
        last = f"; it wrote: {wrote[-1]}" if wrote else ""
        raise ValueError(f"{about}: its import {ending(done.returncode)}{last}") from None
    if "error" in told:
        raise ValueError(told["error"])
    return told


def load(name: str) -> Oracle:
    """Import the oracle called `name` here; raises ValueError with one sentence.

    A function without a domain is taken to accept everything.
    """
    module, attribute = _module(name)
    if attribute:
        value: Any = module
        for part in attribute.split("."):
            if not hasattr(value, part):
                known = [key for key in vars(module) if not key.startswith("_")]
                place = name.removesuffix(f":{attribute}")
                raise ValueError(
                    f"oracle {name!r} cannot be loaded: {place} has no {part!r}"
                    f"{suggestion(part, known)}"
                )
            value = getattr(value, part)
        return _shaped(name, value, module)
    return _shaped(name, _only(name, module), module)


def _module(name: str) -> tuple[ModuleType, str]:
    """The module that `name` means, imported, and the name of the object in it, "" for none."""
    path, _, attribute = name.partition(":")
    if (point := entry_points().get(path)) is not None:
        path, attribute = point.module, attribute or point.attr
    try:
        found = _of_file(Path(path)) if is_path(path) else importlib.import_module(path)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, ModuleNotFoundError) and path.startswith(f"{error.name}"):
            words += "; a module's directory must be on PYTHONPATH, or the one you stand in"
        raise ValueError(f"oracle {name!r} cannot be loaded: {words}") from error
    return found, attribute or ""


def _of_file(path: Path) -> ModuleType:
    """The module in a file, whose neighbours it can import."""
    if not path.is_file():
        parent = path.parent
        files = [file.name for file in parent.glob("*.py")] if parent.is_dir() else []
        hint = suggestion(path.name, files)
        raise FileNotFoundError(f"there is no file {path.absolute()}{hint}")
    path = path.absolute()
    spec = importlib.util.spec_from_file_location(f"oracle_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} must be a Python file, NAME.py")
    sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _only(name: str, module: ModuleType) -> Any:
    """The oracle in `module`: itself, its function `backward`, or the only one there is."""
    if hasattr(module, "grads"):
        return module
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, Oracle) and not isinstance(value, (type, ModuleType))
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        one = next(iter(found))
        raise ValueError(
            f"oracle {name!r} has several oracles, {', '.join(found)}: choose one, as {name}:{one}"
        )
    return getattr(module, "backward", module)


def _shaped(name: str, value: Any, module: ModuleType) -> Oracle:
    """`value` as an oracle, if it is one or a function that makes one."""
    if isinstance(value, type):
        raise ValueError(
            f"oracle {name!r} is a class: give an object of it, such as the one that "
            f"`one = {value.__name__}()` makes"
        )
    if callable(value) and not hasattr(value, "grads"):
        domain = getattr(module, "domain", None)
        try:
            return Function(
                value,
                UNDECLARED if domain is None else domain,
                layout=getattr(module, "layout", "channels-last"),
                distribution=getattr(module, "distribution", None),
                preload=getattr(module, "preload", ()),
                environment=getattr(module, "environment", {}),
                memory_limit=getattr(module, "memory_limit", MEMORY_LIMIT),
                declared=domain is not None,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"oracle {name!r}: {error}") from error
    missing = [part for part in _NAMES if not hasattr(value, part)]
    if missing:
        own = [key for key in dir(value) if not key.startswith("_")]
        close = [name for part in missing for name in difflib.get_close_matches(part, own, 1)]
        hint = f"; it has {', '.join(map(repr, close))}" if close else ""
        raise ValueError(
            f"oracle {name!r} lacks {', '.join(missing)}: an oracle has the names distribution, "
            f"domain and grads{hint}"
        )
    found: Oracle = value
    return found


def checked(name: str, oracle: Oracle) -> Oracle:
    """`oracle`, if its names hold what they should; else raises ValueError."""
    if not isinstance(oracle.domain, Domain):
        kind = type(oracle.domain).__name__
        raise ValueError(f"oracle {name!r}: domain must be a Domain(Box(...), ...), not a {kind}")
    if not callable(oracle.grads):
        kind = type(oracle.grads).__name__
        raise ValueError(f"oracle {name!r}: grads must be a function of a problem, not a {kind}")
    environment = getattr(oracle, "environment", {})
    pairs = environment.items() if isinstance(environment, Mapping) else [(None, None)]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ValueError(
            f"oracle {name!r}: environment={environment!r} must be a dict of str to str, such as "
            "{'OMP_NUM_THREADS': '1'}"
        )
    limit = getattr(oracle, "memory_limit", None)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(
            f"oracle {name!r}: memory_limit={limit!r} must be a number of bytes, or None"
        )
    if not all(isinstance(wanted, str) for wanted in distributions(oracle)):
        raise ValueError(
            f"oracle {name!r}: distribution={oracle.distribution!r} must be the name of a package, "
            "a tuple of names, or None"
        )
    return oracle


def distributions(oracle: Oracle) -> tuple[str, ...]:
    """The packages any one of which `oracle` needs."""
    wanted = oracle.distribution
    if wanted is None:
        return ()
    return wanted if isinstance(wanted, tuple) else (wanted,)


def version_of(oracle: Oracle) -> str | None:
    """The version of what `oracle` needs; "" for our own code, None where it is missing."""
    if isinstance(oracle, Described):
        return oracle.version
    wanted = distributions(oracle)
    for name in wanted:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None if wanted else ""


def _tell(name: str, problem: bytes) -> dict[str, Any]:
    """What there is to tell of the oracle `name`, or the script that it writes for `problem`."""
    try:
        oracle = checked(name, load(name))
        if problem:
            inbox = Inbox(limit=1 << 40)
            inbox.feed(problem)
            message = inbox.message()
            assert message is not None
            return {"script": oracle.script(decode_problem(*message))}  # type: ignore[attr-defined]
    except Exception as error:
        words = f"{type(error).__name__}: {error}" if problem else str(error)
        return {"error": words}
    point = entry_points().get(name.partition(":")[0])
    version = version_of(oracle)
    if not version and point is not None and oracle.distribution is None and point.dist:
        version = point.dist.version
    return {
        "distribution": oracle.distribution,
        "version": version,
        "domain": oracle.domain.to_json(),
        "environment": dict(getattr(oracle, "environment", {})),
        "scripted": hasattr(oracle, "script"),
        "declared": not isinstance(oracle, Function) or oracle.declared,
    }


if __name__ == "__main__":
    told = json.dumps(_tell(sys.argv[1], sys.stdin.buffer.read()))
    os.write(int(sys.argv[2]), told.encode())
