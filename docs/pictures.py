"""The pictures of conv_backward.ipynb: grids of numbers in which cells that belong together match.

A picture is SVG text on white, some kilobytes, the same to the byte whenever it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, PINK = COLOURS = ("#56b4e9", "#e69f00", "#2fb98f", "#cc79a7")
GREY = "#d7dce1"  # a cell of the padding, or one that is cut off
INK = "#1f2328"
_LINE, _GAP, _TITLE, _CAPTION = "#8c959f", 20, 22, 26  # colour, and pixels

Cell = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """A matrix of numbers (rows, columns) under a title.

    `fill` colours cells; `windows` frames blocks: (first row, first column, rows, columns, colour);
    `padding` is how many cells at each side are no part of the input. A cell of `size` 16 or less
    shows no number.
    """

    title: str
    numbers: Any
    fill: Mapping[Cell, str] = field(default_factory=dict)
    windows: Sequence[tuple[int, int, int, int, str]] = ()
    padding: int = 0
    size: int = 30

    @property
    def width(self) -> float:
        """In pixels, the title's included."""
        return max(np.shape(self.numbers)[1] * self.size, 6.6 * len(self.title))

    @property
    def height(self) -> int:
        """In pixels, with the title above."""
        return int(np.shape(self.numbers)[0]) * self.size + _TITLE

    def draw(self, left: float, top: float) -> Iterator[str]:
        """The SVG elements, at this place."""
        yield f'<text x="{left:g}" y="{top + 13:g}" font-weight="600">{escape(self.title)}</text>'
        top += _TITLE
        yield f'<g stroke="{_LINE}">'
        for row, column in np.ndindex(np.shape(self.numbers)):
            outside = self._is_padding(row, column)
            colour = self.fill.get((row, column), GREY if outside else "white")
            yield (
                f'<rect x="{left + column * self.size:g}" y="{top + row * self.size:g}" '
                f'width="{self.size}" height="{self.size}" fill="{colour}"'
                + (' stroke-dasharray="3 3"/>' if outside else "/>")
            )
        yield '</g><g text-anchor="middle">'
        if self.size > 16:
            for (row, column), number in np.ndenumerate(np.asarray(self.numbers)):
                x, y = left + (column + 0.5) * self.size, top + (row + 0.5) * self.size + 4
                yield f'<text x="{x:g}" y="{y:g}">{number:g}</text>'
        yield '</g><g fill="none" stroke-width="4">'
        for row, column, rows, columns, colour in self.windows:
            x, y = left + column * self.size, top + row * self.size
            yield (
                f'<rect x="{x + 2.5:g}" y="{y + 2.5:g}" width="{columns * self.size - 5}" '
                f'height="{rows * self.size - 5}" rx="4" stroke="{colour}"/>'
            )
        yield "</g>"

    def _is_padding(self, row: int, column: int) -> bool:
        rows, columns = np.shape(self.numbers)
        p = self.padding
        return not (p <= row < rows - p and p <= column < columns - p)


@dataclass(frozen=True)
class Picture:
    """What `row` draws; a notebook shows it."""

    svg: str
    words: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return self.words


Part = Grid | str | Sequence[Grid]


def row(*parts: Part, words: str) -> Picture:
    """Grids, signs and columns of grids from left to right; below, in `words`, what they show."""
    columns = [[part] if isinstance(part, (Grid, str)) else list(part) for part in parts]
    heights = [_height(column) for column in columns]
    tallest, left = max(heights), 4.0
    elements: list[str] = []
    for column, own in zip(columns, heights):
        top = 4 + (tallest - own) / 2
        for part in column:
            if isinstance(part, str):
                middle = 4 + (tallest + _TITLE) / 2 + 5
                size = 20 if len(part) == 1 else 13
                elements.append(
                    f'<text x="{left:g}" y="{middle:g}" font-size="{size}">{escape(part)}</text>'
                )
            else:
                elements += part.draw(left, top)
                top += part.height + 10
        left += max(_width(part) for part in column) + _GAP
    height = tallest + 8 + _CAPTION
    elements.append(f'<text x="4" y="{height - 10:g}" font-style="italic">{escape(words)}</text>')
    width = max(left - _GAP + 4, 6.3 * len(words))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(words)}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(elements) + "\n</svg>"
    )
    return Picture(svg, words)


def _width(part: Grid | str) -> float:
    if isinstance(part, Grid):
        return part.width
    return 16 if len(part) == 1 else 7 * len(part)


def _height(column: Sequence[Grid | str]) -> int:
    grids = [part for part in column if isinstance(part, Grid)]
    return sum(grid.height for grid in grids) + 10 * max(len(grids) - 1, 0)
