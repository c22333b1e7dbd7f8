"""A standalone script for a failure: NumPy, the framework, the numbers; nothing of this project.

It keeps to what the scripts in tests/findings do: it prints "DEFECT: ..." and exits with 1, or dies
of a signal, where the defect is there; it prints "not reproduced" and exits with 0 where not.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np

from oracles.compare import Verdict, can_be_exact, exact_grads, expected_of
from oracles.process import ENVIRONMENT
from oracles.protocol import Domain
from oracles.registry import Entry
from reference.problem import Array, ConvGrads, ConvProblem, array_literal
from reference.rounding import RESULTS, as_doubles, as_rationals

_REPEATS = 20  # at least, for a fault that does not show at once

_LOOP = """\
for ask in range({repeats}):
    try:
        got = {call}
    except Exception as error:
        sys.exit(print(f"DEFECT: ask {{ask}}: raises {{type(error).__name__}}: {{error}}") or 1)
    for name, want in WANT.items():
        words, numbers = "", got[name].astype(np.float64)
        if got[name].shape != want.shape:
            words = f"{{name}}.shape = {{got[name].shape}}, but should be {{want.shape}}"
        elif not (
            (np.abs(numbers - want) <= ALLOWED[name])
            | (numbers == want)
            | (np.isnan(numbers) & np.isnan(want)){overflows}
        ).all():
            words = f"{{name}} =\\n{{got[name]}}\\nbut should be\\n{{want}}"
            words += f"\\nby no more than\\n{{ALLOWED[name]}}" if np.any(ALLOWED[name]) else ""
        if words:
            sys.exit(print(f"DEFECT: ask {{ask}}: {{words}}") or 1)
print("not reproduced")
"""
_OVERFLOWS = """
            | (OVERFLOWS[name] & ~np.isfinite(numbers))"""


def standalone(verdict: Verdict, entry: Entry) -> str | None:
    """The script for `verdict`; None for an oracle that does not say how to call it.

    Raises what the oracle's `script` raises.
    """
    source: Callable[[ConvProblem], str] | None = getattr(entry.oracle, "script", None)
    if source is None:
        return None
    evidence = verdict.shown_by
    sequence = [*evidence.before, evidence.problem]
    calls = [f"ask_{number}()" for number in range(len(sequence))]
    want, allowed, overflows = _expected(evidence.problem, entry.oracle.domain)
    may_overflow = any(np.any(getattr(overflows, name)) for name in RESULTS)
    environment = {**ENVIRONMENT, **entry.environment}
    needs = f"{entry.base.partition(':')[0]} {entry.version}".strip()
    about = textwrap.fill(verdict.message.splitlines()[0], 96, break_on_hyphens=False)
    return (
        f'"""{_plain(about)}\n\n'
        f"Needs {_plain(needs)} and NumPy. Prints DEFECT and exits with 1, or dies, where the\n"
        'defect is there; prints "not reproduced" where not.\n"""\n\n'
        f"import os\nimport sys\n\n{_imports(evidence.problem)}\n"
        f"ENVIRONMENT = {_dict(environment)}\n"
        "if any(os.environ.get(key) != value for key, value in ENVIRONMENT.items()):\n"
        "    os.execve(sys.executable, sys.orig_argv, {**os.environ, **ENVIRONMENT})\n\n\n"
        + "\n\n\n".join(
            _function(number, problem, source(problem)) for number, problem in enumerate(sequence)
        )
        + f"\n\n\nWANT = {_arrays(want)}\nALLOWED = {_arrays(allowed)}\n"
        + (f"OVERFLOWS = {_arrays(overflows)}\n" if may_overflow else "")
        + "\n"
        + "".join(f"{call}\n" for call in calls[:-1])
        + _LOOP.format(
            repeats=max(_REPEATS, 4 * evidence.asks),
            call=calls[-1],
            overflows=_OVERFLOWS if may_overflow else "",
        )
    )


def _expected(problem: ConvProblem, domain: Domain) -> tuple[ConvGrads, ConvGrads, ConvGrads]:
    """The right results in float64, the most that an answer may be off, and where it may overflow.

    What is too large is Inf; where a sum may overflow, or not, Inf and NaN are right too.
    """
    expected = expected_of(problem, domain)
    right = exact_grads(problem) if can_be_exact(problem) else expected.want
    wants, offs, overflows = {}, {}, {}
    for name in RESULTS:
        if (array := getattr(right, name)) is not None:
            wants[name] = want = as_doubles(array)
            finite = np.isfinite(want)
            rounding = np.zeros(want.shape)
            again = as_rationals(want[finite]) if array.dtype == object else want[finite]
            rounding[finite] = as_doubles(np.abs(array[finite] - again))
            allowed = getattr(expected.allowed, name)
            offs[name] = allowed + rounding if allowed.any() else np.zeros(())
            infinite, nan = (
                ~expected.wrong(name, np.copysign(value, want).astype(problem.dtype))
                for value in (np.inf, np.nan)
            )
            is_infinite = expected.is_infinite(name) & ~nan
            wants[name] = np.where(is_infinite, np.copysign(np.inf, want), want)
            overflows[name] = finite & (infinite | nan) & ~is_infinite
    return _grads(wants), _grads(offs), _grads(overflows)


def _grads(arrays: dict[str, Array]) -> ConvGrads:
    return ConvGrads(arrays["dx"], arrays["dw"], arrays.get("db"), arrays["y"])


def _arrays(grads: ConvGrads) -> str:
    """The arrays of `grads` by name, as source."""
    arrays = ((name, getattr(grads, name)) for name in RESULTS)
    lines = (f"    {name!r}: {array_literal(a)},\n" for name, a in arrays if a is not None)
    return "{\n" + "".join(lines) + "}"


def _imports(problem: ConvProblem) -> str:
    """What makes the arrays."""
    bfloat16 = "import ml_dtypes  # makes NumPy know bfloat16\n"
    return f"{bfloat16 if problem.dtype.name == 'bfloat16' else ''}import numpy as np\n"


def _function(number: int, problem: ConvProblem, source: str) -> str:
    """A function that asks for one problem."""
    arrays = "\n".join(
        f"{name} = {array_literal(getattr(problem, name))}" for name in ("x", "w", "b", "dy")
    )
    names = [name for name in RESULTS if name != "db" or problem.b is not None]
    results = ", ".join(f'"{name}": {name}' for name in names)
    body = textwrap.indent(f"{arrays}\n{source}\nreturn {{{results}}}", "    ")
    return f"def ask_{number}():\n{body}"


def _dict(content: dict[str, str]) -> str:
    return "\n".join(["{", *(f"    {key!r}: {value!r}," for key, value in content.items()), "}"])


def _plain(text: str) -> str:
    """`text` so that it can stand in a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")
