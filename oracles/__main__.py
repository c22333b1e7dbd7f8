"""`python -m oracles new|list|certify`: write an oracle, list those there are, certify one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from oracles import outside, registry

_ROOT = Path(__file__).resolve().parent.parent
_NEW = '''\
"""{name}: a convolution backward of our own. `python -m oracles certify {name}.py` verifies it."""

from oracles import oracle
from reference import ConvParams, conv_backward


@oracle(
    ranks=(1, 2, 3),  # spatial axes
    dtypes=("float32", "float64"),  # of float16, bfloat16, float32, float64
    groups=("one", "some", "depthwise"),  # groups = 1; 1 < groups < C; groups = C
    stride="any",  # or "one", "equal" on every axis
    padding="any",  # or "zero", "symmetric"
    dilation="any",  # or "one"
    layout="channels-last",  # or "channels-first": x (N, C, *S), w (F, C/groups, *K)
    results=("dx", "dw", "db"),  # what is returned, in this order; "y" too where it is computed
)
def {name}(x, w, dy, stride, padding, dilation, groups):
    """Of L = sum(dy * y): x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), padding in pairs."""
    # Put your own computation in the place of the reference's: NumPy in, NumPy out.
    grads = conv_backward(x, w, dy, ConvParams(stride, padding, dilation, groups))
    return grads.dx, grads.dw, grads.db
'''


def main(arguments: list[str]) -> int:
    """Run one of the subcommands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m oracles", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="write NAME.py, an oracle to fill in")
    new.add_argument("name")
    commands.add_parser("list", help="every oracle, where it is from, its version or how to get it")
    commands.add_parser("certify", add_help=False, help="verify one, rung by rung")
    options, others = parser.parse_known_args(arguments)
    if options.command == "certify":
        return certify(others)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.command == "new":
        return write_new(options.name)
    for line in table():
        print(line)
    return 0


def write_new(name: str) -> int:
    """Write NAME.py where one stands; returns the exit code."""
    name = name.removesuffix(".py")
    path = Path(f"{name}.py")
    if not name.isidentifier():
        print(f"error: name {name!r}: must be a Python name, such as my_kernel", file=sys.stderr)
        return 2
    try:
        with path.open("x") as file:
            file.write(_NEW.format(name=name))
    except OSError as error:
        print(f"error: {path}: {error.strerror}; choose another name", file=sys.stderr)
        return 2
    print(f"wrote {path}; to verify it: python -m oracles certify {path}")
    return 0


def table() -> list[str]:
    """Every oracle and variant: its name, where it is from, its version or how to install it."""
    rows = [("oracle", "from", "version")]
    for entry in registry.entries():
        for name in (entry.name, *registry.variants(entry.name)):
            one = registry.find(name)
            state = (one.version or "ours") if one.installed else one.missing
            rows.append((name, f"oracles/{entry.name}.py", state))
    for name, point in sorted(outside.entry_points().items()):
        version = f"{point.dist.name} {point.dist.version}" if point.dist else "-"
        rows.append((name, f"entry point {point.value}", version))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def certify(arguments: list[str]) -> int:
    """Have the project's tests certify an oracle, in a process of their own."""
    if not (_ROOT / "tests").is_dir():
        print(
            f"error: certify needs the project's tests, which are not at {_ROOT}: install it from "
            "a checkout with pip install -e",
            file=sys.stderr,
        )
        return 2
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_ROOT), *([inherited] if inherited else [])])
    command = [sys.executable, "-P", "-m", "tests.support.certify", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
