"""A standalone script for a failure: NumPy, the framework, the numbers; nothing of this project.

It keeps to what the scripts in tests/findings do: it prints "DEFECT: ..." and exits with 1, or dies
of a signal, where the defect is there; it prints "not reproduced" and exits with 0 where not.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np

from oracles.compare import EXACT_LIMIT, RESULTS, Verdict, exact_grads, reference_grads
from oracles.protocol import Evidence
from oracles.registry import Entry
from oracles.worker import ENVIRONMENT
from reference.problem import ConvGrads, ConvProblem, array_literal

_REPEATS = 20  # at least, for a fault that does not show at once

_LOOP = """\
for ask in range({repeats}):
    try:
        got = {call}
    except Exception as error:
        sys.exit(print(f"DEFECT: ask {{ask}}: raises {{type(error).__name__}}: {{error}}") or 1)
    for name, want in WANT.items():
        words = ""
        if got[name].shape != want.shape:
            words = f"{{name}}.shape = {{got[name].shape}}, but should be {{want.shape}}"
        elif not np.array_equal(got[name], want):
            words = f"{{name}} =\\n{{got[name]}}\\nbut should be\\n{{want}}"
        if words:
            sys.exit(print(f"DEFECT: ask {{ask}}: {{words}}") or 1)
print("not reproduced")
"""


def standalone(verdict: Verdict, entry: Entry) -> str | None:
    """The script for `verdict`; None for an oracle that does not say how to call it.

    Raises what the oracle's `script` raises.
    """
    source: Callable[[ConvProblem], str] | None = getattr(entry.oracle, "script", None)
    if source is None:
        return None
    evidence = verdict.evidence or Evidence(verdict.problem)
    sequence = [*evidence.before, evidence.problem]
    calls = [f"ask_{number}()" for number in range(len(sequence))]
    want = _want(evidence.problem)
    wanted = "".join(
        f"    {name!r}: {array_literal(getattr(want, name))},\n"
        for name in RESULTS
        if getattr(want, name) is not None
    )
    environment = {**ENVIRONMENT, **entry.environment}
    needs = f"{entry.base.partition(':')[0]} {entry.version}".strip()
    about = textwrap.fill(verdict.message.splitlines()[0], 96, break_on_hyphens=False)
    return (
        f'"""{_plain(about)}\n\n'
        f"Needs {_plain(needs)} and NumPy. Prints DEFECT and exits with 1, or dies, where the\n"
        'defect is there; prints "not reproduced" where not.\n"""\n\n'
        "import os\nimport sys\n\nimport numpy as np\n\n"
        f"ENVIRONMENT = {_dict(environment)}\n"
        "if any(os.environ.get(key) != value for key, value in ENVIRONMENT.items()):\n"
        "    os.execve(sys.executable, sys.orig_argv, {**os.environ, **ENVIRONMENT})\n\n\n"
        + "\n\n\n".join(
            _function(number, problem, source(problem)) for number, problem in enumerate(sequence)
        )
        + f"\n\n\nWANT = {{\n{wanted}}}\n\n"
        + "".join(f"{call}\n" for call in calls[:-1])
        + _LOOP.format(repeats=max(_REPEATS, 4 * evidence.asks), call=calls[-1])
    )


def _want(problem: ConvProblem) -> ConvGrads:
    """The right answer: from rational arithmetic where that is not too slow."""
    arrays = (problem.x, problem.w, problem.b, problem.dy)
    finite = all(np.isfinite(array).all() for array in arrays if array is not None)
    if not finite or problem.dy.size > EXACT_LIMIT:
        return reference_grads(problem)
    exact = exact_grads(problem)
    dx, dw, db, y = (
        None if array is None else array.astype(problem.dtype)
        for array in (exact.dx, exact.dw, exact.db, exact.y)
    )
    assert dx is not None
    assert dw is not None
    return ConvGrads(dx, dw, db, y)


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
