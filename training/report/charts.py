"""Charts as inline SVG, with axes and a label at the end of each line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

#: Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")

#: The size and the margins of the drawing, in its own units. The labels are in the right margin.
_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 84, 14, 36


@dataclass(frozen=True, slots=True)
class Line:
    """A curve and the label at its end."""

    label: str
    points: Sequence[Point]
    colour: str = COLOURS[0]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """The title of a chart, and the names and ranges of its axes."""

    title: str
    across: str
    along: str
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)

    def place(self, point: Point) -> Point:
        """Return where a point lies in the drawing."""
        inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        x = (point[0] - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        y = (point[1] - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return round(_LEFT + x * inner_width, 1), round(_TOP + (1 - y) * inner_height, 1)


def chart(axes: Axes, lines: Sequence[Line]) -> Markup:
    """Draw lines into axes. A line without points is left out."""
    parts = [_frame(axes)]
    ends = _label_heights([axes.place(line.points[-1])[1] for line in lines if line.points])
    for line, height in zip([line for line in lines if line.points], ends, strict=True):
        parts.append(_line(axes, line, height))
    return Markup(  # noqa: S704  (every part is escaped where it is made)
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{escape(axes.title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def _frame(axes: Axes) -> str:
    left, bottom = axes.place((axes.x[0], axes.y[0]))
    right, top = axes.place((axes.x[1], axes.y[1]))
    parts = []
    for step in range(5):
        x = axes.x[0] + (axes.x[1] - axes.x[0]) * step / 4
        y = axes.y[0] + (axes.y[1] - axes.y[0]) * step / 4
        at_x, at_y = axes.place((x, y))
        parts.append(f'<path class="grid" d="M{left} {at_y}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{at_x}" y="{bottom + 13}" text-anchor="middle">{_number(x)}</text>'
        )
        parts.append(
            f'<text class="tick" x="{left - 5}" y="{at_y + 3}" text-anchor="end">{_number(y)}</text>'
        )
    middle, height = (left + right) / 2, (top + bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{bottom + 30}" text-anchor="middle">{escape(axes.across)}</text>'
    )
    parts.append(
        f'<text class="axis" x="11" y="{height}" text-anchor="middle" transform="rotate(-90 11 {height})">'
        f"{escape(axes.along)}</text>"
    )
    return "".join(parts)


def _line(axes: Axes, line: Line, height: float) -> str:
    points = [axes.place(point) for point in line.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    drawn = f'<path fill="none" stroke="{line.colour}" stroke-width="1.6"{dash} d="{path}"/>'
    if line.dots or len(points) == 1:
        drawn += "".join(f'<circle cx="{x}" cy="{y}" r="2.4" fill="{line.colour}"/>' for x, y in points)
    return (
        f'{drawn}<text class="name" x="{points[-1][0] + 5}" y="{height + 3}" fill="{line.colour}">'
        f"{escape(line.label)}</text>"
    )


def _label_heights(wanted: list[float], apart: float = 11.0) -> list[float]:
    """Move labels down until none covers another, and all of them up again if one would leave the frame."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = dict.fromkeys(order, 0.0)
    last = float("-inf")
    for index in order:
        last = placed[index] = max(wanted[index], last + apart)
    over = max(0.0, last - (_HEIGHT - _BOTTOM))
    return [placed[index] - over for index in range(len(wanted))]


def _number(value: float) -> str:
    return f"{value:.3g}"
