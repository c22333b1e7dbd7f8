"""Which oracles there are, which of them are installed, and how to install the others.

Every module of this package with an oracle's three names is one; its name is the module's, and
"NAME:VARIANT" is an object in it that is one too. From outside, "package.module" and
"package.module:object" name one. "NAME[KEY=VALUE,...]" is the same oracle with environment
variables of its own, "NAME@path/to/python" under another interpreter, for another version or for
dependencies that clash; "NAME[KEY=VALUE]@path/to/python" is both.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import oracles
from oracles.protocol import Domain, Oracle
from oracles.worker import TIME_LIMIT, Connection, InProcess, Worker
from reference.problem import ConvProblem


@dataclass(frozen=True)
class Entry:
    """One known oracle: `version` is None where its distribution is not installed.

    `ours` says that it is code of this project, which cannot crash, and needs no process. `python`
    is the interpreter that its process runs, `environment` what is set there beside what is
    inherited.
    """

    name: str
    oracle: Oracle
    version: str | None
    ours: bool = False
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The name without environment and interpreter: "NAME" or "NAME:VARIANT"."""
        return re.split(r"[\[@]", self.name)[0]

    @property
    def installed(self) -> bool:
        """Whether the oracle can be asked."""
        return self.version is not None

    @property
    def missing(self) -> str:
        """The sentence for an oracle that is not installed, with the line that installs it."""
        wanted = _distributions(self.oracle)[0]
        pip = "pip install -c constraints.txt"
        if "@" in self.name:
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


def variants(name: str) -> list[str]:
    """The names of the variants of the oracle in the tree called `name`, sorted."""
    module = importlib.import_module(f"oracles.{name}")
    found = (key for key, value in vars(module).items() if _is_variant(value))
    return sorted(f"{name}:{key}" for key in found)


def _is_variant(value: object) -> bool:
    return isinstance(value, Oracle) and not isinstance(value, type)


def find(name: str) -> Entry:
    """The oracle called `name`, in one of the forms that the module's docstring lists.

    Raises ValueError that says what is known, or what is wrong with the module or interpreter.
    """
    form = re.fullmatch(r"([^\[\]@]*)(?:\[(.*)\])?(?:@(.*))?", name)
    if form is None:
        raise ValueError(f"oracle {name!r}: must have the form NAME[KEY=VALUE,...]@path/to/python")
    base, settings, python = form.groups()
    given = _environment(name, settings)
    entry = _find_base(_variant_with(given, base.removeprefix("oracles.")))
    environment = {**getattr(entry.oracle, "environment", {}), **given}
    entry = replace(entry, environment=environment, ours=entry.ours and not settings)
    if settings is not None:
        entry = replace(entry, name=f"{entry.name}[{settings}]")
    return entry if python is None else _elsewhere(entry, python)


def _find_base(name: str) -> Entry:
    known = {entry.name: entry for entry in entries()}
    if name in known:
        return known[name]
    base, _, variant = name.partition(":")
    if base in known:
        if name not in variants(base):
            hint = _known(name, variants(base))
            raise ValueError(f"oracle {name!r}: {base} has no variant {variant!r}: {hint}")
        oracle = getattr(known[base].oracle, variant)
        return replace(known[base], name=name, oracle=oracle, version=_version(oracle))
    if name.endswith(".py") or name.startswith("."):
        raise ValueError(
            f"oracle {name!r} is a path: give a module as Python imports it, package.module, and "
            "its directory on PYTHONPATH"
        )
    if "." in name or ":" in name:
        return _outside(name)
    raise ValueError(f"oracle {name!r} is unknown: {_known(name, list(known))}")


def _variant_with(environment: dict[str, str], name: str) -> str:
    """The variant of oracle `name` that is made by these variables, else `name`.

    TensorFlow without oneDNN takes less, whichever way it was asked for.
    """
    if environment and name in names():
        for variant in variants(name):
            needed = getattr(_find_base(variant).oracle, "environment", {})
            if needed and needed.items() <= environment.items():
                return variant
    return name


def _known(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known are {', '.join(known) or 'none'}{hint}"


def _environment(name: str, settings: str | None) -> dict[str, str]:
    """The variables in "KEY=VALUE,KEY=VALUE"; {} for None."""
    if settings is None:
        return {}
    pairs = [setting.partition("=") for setting in settings.split(",")]
    for key, equals, value in pairs:
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key) or "\0" in value:
            raise ValueError(
                f"oracle {name!r}: [{settings}] must be KEY=VALUE,... with names of environment "
                "variables, such as [ONEDNN_MAX_CPU_ISA=AVX2]"
            )
    return {key: value for key, _, value in pairs}


def connect(
    entry: Entry,
    *,
    in_process: bool = False,
    time_limit: float = TIME_LIMIT,
    told: Callable[[str], None] = lambda _: None,
    may_ask: Callable[[ConvProblem], bool] | None = None,
    asked: Callable[[bytes], None] | None = None,
) -> Connection:
    """What answers problems for `entry`: our own code directly, all else in its own process.

    `in_process` asks a framework directly too: a crash then ends the run, but a debugger can see
    it. The rest is as for `Worker`.
    """
    if in_process or entry.ours:
        return InProcess(entry.name, entry.oracle)
    return Worker(
        entry.name,
        entry.oracle.domain,
        python=entry.python,
        environment=entry.environment,
        time_limit=time_limit,
        told=told,
        may_ask=may_ask,
        asked=asked,
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
    environment = getattr(oracle, "environment", {})
    pairs = environment.items() if isinstance(environment, Mapping) else [(None, None)]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ValueError(
            f"oracle {name!r}: environment={environment!r} must be a dict of str to str, such as "
            "{'OMP_NUM_THREADS': '1'}"
        )
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
    return replace(
        entry,
        name=f"{entry.name}@{python}",
        version=version,
        ours=False,
        python=str(Path(path).absolute()),
    )


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
