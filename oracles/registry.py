"""Which oracles there are, which of them are installed, and how to install the others.

Every module of this package with an oracle's three names is one; its name is the module's, and
"NAME:VARIANT" is an object in it that is one too. From outside, "package.module[:object]",
"path/to/file.py[:object]" and the name of an entry point in the group "conv_oracles" name one (see
`oracles.outside`). "NAME[KEY=VALUE,...]" is the same oracle with environment variables of its own,
"NAME@path/to/python" under another interpreter, for another version or for dependencies that clash;
"NAME[KEY=VALUE]@path/to/python" is both.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import oracles
from oracles import outside
from oracles.adapt import suggestion
from oracles.outside import distributions, version_of
from oracles.process import ENVIRONMENT
from oracles.protocol import Oracle
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
    def required(self) -> bool:
        """Whether a run that requires all oracles requires this one."""
        return bool(getattr(self.oracle, "required", True))

    @property
    def missing(self) -> str:
        """The sentence for an oracle that is not installed, with the line that installs it."""
        wanted = getattr(self.oracle, "installs", distributions(self.oracle)[0])
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
        if info.name not in ("zygote", "__main__"):  # which import this module
            module = importlib.import_module(f"oracles.{info.name}")
            if isinstance(module, Oracle):
                version, ours = version_of(module), module.distribution is None
                found.append(Entry(info.name, module, version, ours))
    return sorted(found, key=lambda entry: entry.name)


def variants(name: str) -> list[str]:
    """The names of the variants of the oracle in the tree called `name`, sorted."""
    module = importlib.import_module(f"oracles.{name}")
    found = (key for key, value in vars(module).items() if _is_variant(value))
    return sorted(f"{name}:{key}" for key in found)


def _is_variant(value: object) -> bool:
    return isinstance(value, Oracle) and not isinstance(value, type)


def find(name: str, *, undeclared: bool = False) -> Entry:
    """The oracle called `name`, in one of the forms that the module's docstring lists.

    `undeclared` takes a function from outside that does not say what it takes. Raises ValueError
    that says what is known, or what is wrong with the module or interpreter.
    """
    form = re.fullmatch(r"([^\[\]@]*)(?:\[(.*)\])?(?:@(.*))?", name)
    if re.search(r"[\[\]@].*\.py(:|$)", name):
        raise ValueError(
            f"oracle {name!r}: no path may have one of [ ] @ in it, which stand before variables "
            "and an interpreter; rename it, or give the module with its directory on PYTHONPATH"
        )
    if form is None:
        raise ValueError(f"oracle {name!r}: must have the form NAME[KEY=VALUE,...]@path/to/python")
    base, settings, python = form.groups()
    given = _environment(name, settings)
    base = _variant_with(given, base.removeprefix("oracles."))
    interpreter = None if python is None else _interpreter(base, python)
    entry = _find_base(base, interpreter, given, undeclared=undeclared)
    environment = {**getattr(entry.oracle, "environment", {}), **given}
    entry = replace(entry, environment=environment, ours=entry.ours and not settings)
    if settings is not None:
        entry = replace(entry, name=f"{entry.name}[{settings}]")
    return entry if python is None else _elsewhere(entry, python, interpreter or "")


def load(base: str) -> Oracle:
    """The oracle called `base`, a name without environment and interpreter, imported here."""
    known = _in_the_tree(base)
    return outside.load(base) if known is None else known.oracle


def _in_the_tree(name: str) -> Entry | None:
    """The oracle or variant of this package called `name`; None if that is no name of one."""
    known = {entry.name: entry for entry in entries()}
    if name in known:
        return known[name]
    base, _, variant = name.partition(":")
    if base not in known:
        return None
    if name not in variants(base):
        hint = _known(name, variants(base))
        raise ValueError(f"oracle {name!r}: {base} has no variant {variant!r}: {hint}")
    oracle = getattr(known[base].oracle, variant)
    return replace(known[base], name=name, oracle=oracle, version=version_of(oracle))


def _find_base(
    name: str, python: str | None, environment: Mapping[str, str], *, undeclared: bool
) -> Entry:
    if (known := _in_the_tree(name)) is not None:
        return known
    if not outside.exists(name):
        every = [*names(), *outside.entry_points()]
        raise ValueError(f"oracle {name!r} is unknown: {_known(name, every)}")
    oracle = outside.describe(name, python or sys.executable, environment, undeclared=undeclared)
    return Entry(name, oracle, version_of(oracle))


def _variant_with(environment: dict[str, str], name: str) -> str:
    """The variant of oracle `name` that is made by these variables, else `name`.

    TensorFlow without oneDNN takes less, whichever way it was asked for.
    """
    if environment and name in names():
        for variant in variants(name):
            needed = getattr(load(variant), "environment", {})
            if needed and needed.items() <= environment.items():
                return variant
    return name


def _known(name: str, known: list[str]) -> str:
    return f"known are {', '.join(known) or 'none'}{suggestion(name, known)}"


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
    asked: Callable[[bytes, bool], None] | None = None,
) -> Connection:
    """What answers problems for `entry`: our own code directly, all else in its own process.

    `in_process` asks a framework directly too: a crash then ends the run, but a debugger can see
    it. What keeps it to one thread, of which the ledger's records speak, is then set in this
    process, unless it is, and heeded if nothing has imported it yet. The rest is as for `Worker`.
    """
    if in_process and not entry.ours:
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
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


def _interpreter(name: str, python: str) -> str:
    """The path of an interpreter that can run an oracle's process; else raises ValueError."""
    path = shutil.which(python)
    if path is None:
        raise ValueError(f"oracle '{name}@{python}': {python} is no interpreter")
    done = subprocess.run([path, "-c", _CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"oracle '{name}@{python}': {python} must be Python 3.11 or newer with NumPy: "
            f"{(done.stderr.strip() or 'it says nothing').splitlines()[-1]}"
        )
    return str(Path(path).absolute())


def _elsewhere(entry: Entry, python: str, path: str) -> Entry:
    """`entry` under the interpreter `path`, with the version that is installed there."""
    version, wanted = entry.version, distributions(entry.oracle)
    if not isinstance(entry.oracle, outside.Described):
        command = [path, "-c", _PRINT_VERSION, *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        version = done.stdout.strip() or (None if wanted else "")
    name = f"{entry.name}@{python}"
    return replace(entry, name=name, version=version, ours=False, python=path)


_CHECK = """
import sys
import numpy
assert sys.version_info >= (3, 11), sys.version
"""
_PRINT_VERSION = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        print(importlib.metadata.version(name))
        break
    except importlib.metadata.PackageNotFoundError:
        pass
"""
