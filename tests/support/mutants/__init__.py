"""Wrong convolution gradients, planted on purpose: the verification must catch every one.

Each is an oracle, named like "tests.support.mutants.dx:dx_dilation_ignored". A new one is a
function in one of these modules, and on no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from tests.support.mutants.fault import Mutant


def _mutants() -> dict[str, Mutant]:
    modules = (f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__))
    values = (value for name in modules for value in vars(importlib.import_module(name)).values())
    return {value.name: value for value in values if isinstance(value, Mutant)}


_EVERY = _mutants()
DROPPED: Mapping[str, str] = MappingProxyType(
    {
        "db_zero_when_dw_not_wanted": "an oracle is always asked for every gradient",
        "dw_zero_when_dx_not_wanted": "an oracle is always asked for every gradient",
        "dx_missing_conjugate": "no oracle takes complex numbers",
        "dw_subnormals_flushed": "allowed: frameworks flush, and the bound has a term for it",
        "dx_layout_not_preserved": "allowed: shape, dtype and values are claimed, not strides",
    }
)
ALLOWED: Mapping[str, Mutant] = MappingProxyType(
    {name: mutant for name, mutant in _EVERY.items() if mutant.module.endswith(".allowed")}
)
MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {name: mutant for name, mutant in _EVERY.items() if name not in ALLOWED}
)


def oracle_name(name: str) -> str:
    """What the registry calls the mutant `name`."""
    return f"{_EVERY[name].module}:{name}"
