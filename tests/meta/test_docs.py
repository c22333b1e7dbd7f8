"""What docs/plug-in.md shows is done, and prints what it says; what pages link to is there."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Kind and content of each fenced block."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(content: str) -> Iterator[tuple[str, str]]:
    """The commands of a console, and what each prints."""
    for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(expected: str, printed: str) -> bool:
    """Whether something is printed as expected, where "..." stands for anything."""
    pattern = ".*?".join(map(re.escape, expected.rstrip().split("...")))
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None


def shell(command: str, directory: Path) -> str:
    """What a command prints, with its exit code if that is not 0."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={**inherited, "PATH": path, "VERIFIER": str(ROOT), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout + (f"[exit code {done.returncode}]\n" if done.returncode else "")


def test_plug_in(tmp_path: Path) -> None:
    """Files are written, commands are run and print what is shown, in the order of the page."""
    done = 0
    for kind, content in blocks((ROOT / "docs" / "plug-in.md").read_text()):
        if kind == "python":
            name = content.partition("\n")[0].removeprefix("# ")
            (tmp_path / name).write_text(content)
        elif kind == "sh" and "export" not in content:
            assert shell(content, tmp_path) == ""
        elif kind == "console":
            for command, expected in commands(content):
                printed = shell(command, tmp_path)
                assert matches(expected, printed), f"$ {command}\n{printed}"
                done += 1
    assert done == 6


def test_a_page_can_be_wrong() -> None:
    """What is not printed is missed."""
    assert matches("one\n...\nthree\n", "one\n2\nthree")
    assert not matches("one\n...\nthree\n", "one\n2\n3")
    assert not matches("one\n", "one\ntwo")


def dead_links(page: Path) -> list[str]:
    """The files that a page links to, or shows, and that are not there."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    return [link for link in links if not (page.parent / link).exists()]


def test_links() -> None:
    """Of all pages, and of the notebook."""
    pages = itertools.chain.from_iterable(
        ROOT.glob(pattern) for pattern in ("*.md", "docs/*.md", "docs/*.ipynb", "tests/*/README.md")
    )
    assert {str(page): dead for page in pages if (dead := dead_links(page))} == {}


def test_a_link_can_be_dead(tmp_path: Path) -> None:
    """A file that is not there is found; other sites and places in a page are not asked for."""
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#place) ![b](gone.png) [c](https://example.org) [d](#here)")
    assert dead_links(page) == ["gone.png"]
