"""Oracles from outside: three ways in, other shapes, partial ones, and what is wrong with some."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import Box, Domain, oracle, outside
from oracles.adapt import Function
from oracles.compare import Verdict, judge, reference_grads
from oracles.protocol import Malformed
from oracles.registry import connect, find
from oracles.worker import InProcess
from reference import ConvParams, ConvProblem
from tests.meta.test_face import rows
from tests.support.reporting import Count

ROOT = Path(__file__).resolve().parents[2]
KERNEL = """
    from oracles import oracle
    from reference import ConvParams, conv_backward

    @oracle(ranks=(1,), dtypes=("float32",))
    def backward(x, w, dy, stride, padding, dilation, groups):
        grads = conv_backward(x, w, dy, ConvParams(stride, padding, dilation, groups))
        return grads.dx + (stride[0] == 2), grads.dw, grads.db
"""
MENDED = KERNEL.replace(" + (stride[0] == 2)", "")
NOTHING = "(x, w, dy, stride, padding, dilation, groups): pass\n"
PROBLEM = ConvProblem(
    x=np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2),
    w=np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3),
    b=np.ones(3, np.float32),
    dy=np.arange(24, dtype=np.float32).reshape(1, 2, 4, 3),
    params=ConvParams(),
)

ONE = np.ones((1, 1, 1), np.float32)
PLAIN = ConvProblem(ONE, ONE, ONE[0, 0], ONE, ConvParams((1,), ((0, 0),), (1,)))
STRIDED = ConvProblem(ONE, ONE, None, ONE, ConvParams((2,), ((0, 0),), (1,)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory that one stands in."""
    monkeypatch.chdir(tmp_path)
    outside.entry_points.cache_clear()
    yield tmp_path
    outside.entry_points.cache_clear()


def install(name: str, module: str, directory: Path) -> None:
    """What pip leaves of a distribution that has an oracle to offer."""
    place = directory / f"{name}-1.5.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (place / "entry_points.txt").write_text(f"[conv_oracles]\n{name} = {module}\n")


def run_there(directory: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """A short pytest run of these oracles, from another directory than the project's."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
            *(f"--oracle={name}" for name in names),
            *(f"--regressions={directory}", f"{ROOT}/tests/verification/test_oracles.py"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_three_ways_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module, a file and an entry point are the same oracle: wrong, and right when mended."""
    monkeypatch.syspath_prepend(here)
    (here / "kernels").mkdir()
    (here / "kernels" / "mine.py").write_text(textwrap.dedent(KERNEL))
    install("installed", "kernels.mine", here)
    names = ("kernels.mine", "kernels/mine.py:backward", "installed", "installed:backward")
    for name in names:
        connection = connect(find(name))
        message = judge(connection, STRIDED).message
        connection.close()
        assert message.startswith(f"{name} dx[0, 0, 0] = 2, but should be 1 (allowed 0; 1 of 1 ")
    (here / "kernels" / "mine.py").write_text(textwrap.dedent(MENDED))
    done = run_there(here, *names[:3])
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    table = rows(done.stdout)
    assert table["installed"][0] == "1.5"
    for name in names[:3]:
        assert table[name][2:6] == ["exact", "exact", "exact", "-"]


BROKEN = {
    "misspelt.py": "distribution = None\ndomian = None\ndef gards(problem): pass\n",
    "nodomain.py": f"def backward{NOTHING}",
    "strides.py": "def backward(x, w, dy, strides): pass\n",
    "segfaults.py": "import ctypes\nctypes.string_at(0)\n",
    "leaves.py": "print('good bye')\nimport sys\nsys.exit(3)\n",
    "needs.py": "import no_such_package\n",
    "syntax.py": "def f(:\n",
    "several.py": f"from oracles import oracle\n@oracle(ranks=(1,), dtypes=('float32',))\n"
    f"def one{NOTHING}@oracle(ranks=(1,), dtypes=('float32',))\ndef two{NOTHING}",
    "malformed.py": f"domain = 'everything'\ndef backward{NOTHING}",
    "kind.py": "class Kind:\n    distribution = domain = grads = None\n",
    "bare.py": f"from oracles import oracle\n@oracle\ndef f{NOTHING}",
    "typo.py": "from oracles import oracle\n@oracle(ranks=(1,), dtypes=('float32',), layuot='')\n"
    f"def f{NOTHING}",
    "sideways.py": f"from oracles import Box, Domain\nlayout = 'sideways'\n"
    f"domain = Domain(Box(ranks=(1,), dtypes=('float32',)))\ndef backward{NOTHING}",
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("misspelt.py", "lacks domain, grads: an oracle has .*; it has 'domian', 'gards'"),
        ("nodomain.py", "is a function that does not say what it takes: put @oracle"),
        ("strides.py", r"backward\(strides=...\): .* takes some of .*; did you mean 'stride'"),
        ("segfaults.py", "cannot be loaded: its import crashes with SIGSEGV"),
        ("leaves.py", "cannot be loaded: its import exits with code 3; it wrote: good bye"),
        ("needs.py", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'$"),
        ("syntax.py", "cannot be loaded: SyntaxError: invalid syntax"),
        ("several.py", "has several oracles, one, two: choose one, as several.py:one"),
        ("several.py:tow", "several.py has no 'tow'; did you mean 'two'"),
        ("malformed.py", r"domain must be a Domain\(Box\(...\), ...\), not a str"),
        ("kind.py:Kind", "is a class: give an object of it"),
        ("bare.py", "@oracle: must be told what the function takes, such as @oracle"),
        ("typo.py", r"@oracle\(layuot=...\): unknown; did you mean 'layout'"),
        ("sideways.py", "layout='sideways': must be one of "),
        ("svereal.py", "there is no file .*/svereal.py; did you mean 'several.py'"),
        ("no.module", "No module named 'no'; a module's directory must be on PYTHONPATH"),
        ("sev@eral/k.py", "no path may have one of"),
        ("instaled", "is unknown: known are .*installed; did you mean 'installed'"),
        ("installed", "cannot be loaded: ModuleNotFoundError: No module named 'mine'"),
    ],
)
def test_one_sentence_of_what_is_wrong(name: str, words: str, here: Path) -> None:
    """Each fault of an oracle from outside is an error that says what it is; none is imported."""
    for file, text in BROKEN.items():
        (here / file).write_text(text)
    install("installed", "mine", here)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(here)
        with pytest.raises(ValueError, match=words) as caught:
            find(name)
    assert "\n" not in str(caught.value)


def test_nobody_imports_it_here(here: Path) -> None:
    """What is found out of it, it has said itself, in another process; it is then asked there."""
    (here / "mine.py").write_text(textwrap.dedent(KERNEL))
    entry = find("mine.py")
    assert entry.oracle.domain.cells() == [(1, "float32")]
    assert "oracle_mine" not in sys.modules
    connection = connect(entry)
    message = judge(connection, STRIDED).message
    assert message.startswith("mine.py dx[0, 0, 0] = 2, but should be 1")
    connection.close()
    assert "oracle_mine" not in sys.modules


def test_a_script_is_asked_for_elsewhere(here: Path) -> None:
    """An oracle that can write itself down does so where it is imported; its error is told."""
    text = "def script(problem):\n    return f'rank = {1 // (problem.params.rank - 1)}'\n"
    (here / "mine.py").write_text(
        "from oracles import Box, Domain\ndistribution = None\n"
        f"domain = Domain(Box(ranks=(1,), dtypes=('float32',)))\ndef grads(problem): pass\n{text}"
    )
    found: Any = find("mine.py").oracle
    assert found.script(PROBLEM) == "rank = 1"
    with pytest.raises(ValueError, match="ZeroDivisionError: integer division"):
        found.script(PLAIN)


def asked(function: Any, problem: ConvProblem = PROBLEM) -> Verdict:
    """What the judge says of a function that is an oracle."""
    return judge(InProcess("mine", function), problem)


TAKES: Any = {"ranks": (2,), "dtypes": ("float32",)}


def test_channels_first() -> None:
    """A function of channels-first arrays is given them, and what it returns is turned back."""

    @oracle(**TAKES, layout="channels-first", results=("dx", "dw", "db", "y"), contiguous=True)
    def mine(x, w, dy, stride, padding, dilation, groups):
        assert x.shape == (1, 2, 3, 4)
        assert w.shape == (3, 2, 2, 1)
        assert dy.shape == (1, 3, 2, 4)
        assert x.flags.c_contiguous
        right = reference_grads(PROBLEM)
        y = right.y - PROBLEM.b
        return (
            *(np.moveaxis(right.dx, -1, 1), np.moveaxis(right.dw, (-1, -2), (0, 1)), right.db),
            np.moveaxis(y, -1, 1),
        )

    verdict = asked(mine)
    assert verdict.message == ""
    assert verdict.results == dict.fromkeys(("dx", "dw", "db", "y"), True)


@pytest.mark.parametrize(
    ("results", "claimed"),
    [
        (("dx",), {"dx"}),
        (("dx", "dw"), {"dx", "dw"}),
        (("y",), {"y"}),
        (("db", "dw"), {"dw", "db"}),
    ],
)
def test_partial_oracles(results: tuple[str, ...], claimed: set[str]) -> None:
    """What an oracle claims is verified, what it does not is left out; wrong is wrong."""
    right = reference_grads(PROBLEM)
    for wrong in (0, 1):
        answer = [getattr(right, name) + wrong for name in results]

        @oracle(**TAKES, results=results)
        def mine(dy, b):
            return answer[0] if len(answer) == 1 else tuple(answer)  # noqa: B023  # asked at once

        verdict = asked(mine)
        assert {name for name, agrees in verdict.results.items() if agrees is not None} == claimed
        assert verdict.kind == ("differs" if wrong else "agrees")


def test_a_partial_oracle_in_its_process(here: Path) -> None:
    """The table has "-" for what is not claimed; what is claimed and missing is no answer."""
    text = textwrap.dedent(MENDED).replace("dtypes=", "results=('dx',), dtypes=")
    (here / "mine.py").write_text(text.replace(", grads.dw, grads.db", ""))
    (here / "none.py").write_text(text.replace("grads.dx, grads.dw, grads.db", "None"))
    done = run_there(here, "mine.py")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert rows(done.stdout)["mine.py"][2:6] == ["exact", "-", "-", "-"]
    connection = connect(find("none.py"))
    verdict = judge(connection, PLAIN)
    connection.close()
    assert verdict.message.startswith("none.py answers with dx a NoneType, not a NumPy array")


def test_no_answer_is_said_of_what_is_claimed() -> None:
    """What nobody has promised is not missed."""
    count = Count(problems=1, unanswered=1)
    assert count.cell("dx") == "no answer"
    assert count.cell("y", claimed=False) == "-"


def test_a_forward() -> None:
    """A function that is given no bias computes y without it."""
    right = reference_grads(PROBLEM).y
    assert right is not None

    @oracle(**TAKES, results=("y",))
    def without(x, w):
        return right - PROBLEM.b

    @oracle(**TAKES, results=("y",))
    def with_it(x, w, b):
        return right

    assert asked(without).kind == asked(with_it).kind == "agrees"


def test_as_many_results_as_are_claimed() -> None:
    """Fewer are no answer, and it is told how to claim fewer; more are verified too."""
    answer = ["dx", "dw"]
    domain = Domain(Box(**TAKES))
    mine = Function(lambda: tuple(answer), domain)
    with pytest.raises(Malformed, match=r"returns 2 results, but claims dx, dw, db: say what"):
        mine.grads(PROBLEM)
    fewer = Domain(Box(**TAKES), results=("dx", "dw"))
    assert Function(lambda: (*answer, "db"), fewer).grads(PROBLEM).db == "db"


def test_a_function_is_not_asked_for_what_it_does_not_take() -> None:
    """It may have no argument for that, and would be wrong."""
    mine = oracle(ranks=(2,), dtypes=("float32",), groups=("some",))(lambda x, w, dy: (x, w, dy))
    with pytest.raises(NotImplementedError, match=r"<lambda> does not take groups=1 of C=2"):
        mine.grads(PROBLEM)


def test_results_that_are_none() -> None:
    """A domain that claims what there is not is an error."""
    for factors in ({"float32": "float16"}, {"float64": "bfloat16"}):
        with pytest.raises(ValueError, match=r"factors=.*: must be {'float32': NAME}, NAME one of"):
            Domain(Box(**TAKES), factors=factors)
    cut = Domain(Box(**TAKES), factors={"float32": "tfloat32"})
    assert Domain.from_json(cut.to_json()).factors == {"float32": "tfloat32"}
    with pytest.raises(ValueError, match=r"results=\('dz',\): must be a tuple of some of \('dx',"):
        Domain(Box(**TAKES), results=("dz",))
