"""Charts as inline SVG, with axes and a label at the end of each line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

#: Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
GREY = "#7a848e"

#: The width and the margins of the drawing, in its own units; with labels they are in the right margin.
_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _LABELLED, _TOP, _BOTTOM = 52, 14, 92, 14, 36


@dataclass(frozen=True, slots=True)
class Line:
    """A curve and the label at its end, if it has one."""

    label: str
    points: Sequence[Point]
    colour: str = COLOURS[0]
    dashed: bool = False
    dots: bool = False

    @property
    def dotted(self) -> Sequence[Point]:
        """The points that get a dot: a line of one point would be invisible without it."""
        return self.points if self.dots or len(self.points) == 1 else ()


@dataclass(frozen=True, slots=True)
class Band:
    """An interval at each x: (x, low, high)."""

    points: Sequence[tuple[float, float, float]]
    colour: str = COLOURS[0]
    #: Drawn as one area, or as a bar at each x.
    bars: bool = False


@dataclass(frozen=True, slots=True)
class Ring:
    """One point that stands out."""

    point: Point
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of an axis and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """Return where a value lies, from 0 to 1 inside the range."""
        return (value - self.low) / ((self.high - self.low) or 1)

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the range."""
        return -1e-9 <= self.part(value) <= 1 + 1e-9


def scale(low: float, high: float, *, whole: bool = False) -> Scale:
    """Return a scale with ticks at multiples of 1, 2 or 5 times a power of ten, at most five steps.

    The range ends at ticks; with `whole` the ticks are whole numbers, and the range stays as it is.
    """
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 5 + 1e-9)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    if whole:
        return Scale(low, high, tuple(tick for tick in ticks if low <= tick <= high))
    return Scale(ticks[0], ticks[-1], ticks)


#: The scale of shares and probabilities.
SHARES = scale(0, 1)


@dataclass(frozen=True, slots=True)
class Axes:
    """The title of a chart, and the names and scales of its axes."""

    title: str
    across: str
    along: str
    x: Scale = SHARES
    y: Scale = SHARES
    #: Whether one unit is as long on both axes.
    square: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    """The place of the axes in the drawing."""

    axes: Axes
    right: int

    @property
    def height(self) -> int:
        return _WIDTH - _LEFT - self.right + _TOP + _BOTTOM if self.axes.square else _HEIGHT

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        return _LEFT, _TOP, _WIDTH - self.right, self.height - _BOTTOM

    def place(self, point: Point) -> Point:
        left, top, right, bottom = self.edges
        x, y = self.axes.x.part(point[0]), self.axes.y.part(point[1])
        return round(left + x * (right - left), 1), round(bottom - y * (bottom - top), 1)


def chart(
    axes: Axes, lines: Sequence[Line], bands: Sequence[Band] = (), rings: Sequence[Ring] = ()
) -> Markup:
    """Draw lines, bands and rings. A line without points is left out; what is outside is cut off."""
    lines = [line for line in lines if line.points]
    frame = _Frame(axes, _LABELLED if any(line.label for line in lines) else _RIGHT)
    left, top, right, bottom = frame.edges
    inside = [_band(frame, band) for band in bands if band.points] + [_line(frame, line) for line in lines]
    over = [_dot(frame, point, line.colour) for line in lines for point in line.dotted]
    over += [_dot(frame, ring.point, ring.colour, ring=True) for ring in rings]
    # A nested drawing of the same coordinates cuts off what is outside, with room for the width of a line.
    x, y, width, height = left - 1, top - 1, right - left + 2, bottom - top + 2
    return Markup(  # noqa: S704  (every part is escaped where it is made)
        f'<svg viewBox="0 0 {_WIDTH} {frame.height}" role="img"><title>{escape(axes.title)}</title>'
        f'{_grid(frame)}<svg x="{x}" y="{y}" width="{width}" height="{height}" '
        f'viewBox="{x} {y} {width} {height}">{"".join(inside)}</svg>'
        f"{''.join(over)}{_labels(frame, [line for line in lines if line.label])}</svg>"
    )


def _grid(frame: _Frame) -> str:
    left, top, right, bottom = frame.edges
    axes, parts = frame.axes, []
    for tick in axes.y.ticks:
        _, y = frame.place((axes.x.low, tick))
        parts.append(f'<path class="grid" d="M{left} {y}H{right}"/>')
        parts.append(f'<text class="tick" x="{left - 5}" y="{y + 3}" text-anchor="end">{tick:g}</text>')
    for tick in axes.x.ticks:
        x, _ = frame.place((tick, axes.y.low))
        parts.append(f'<path class="grid" d="M{x} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 13}" text-anchor="middle">{tick:g}</text>')
    across, along = (left + right) / 2, (top + bottom) / 2
    parts.append(
        f'<text class="axis" x="{across}" y="{bottom + 30}" text-anchor="middle">{escape(axes.across)}</text>'
        f'<text class="axis" x="11" y="{along}" text-anchor="middle" transform="rotate(-90 11 {along})">'
        f"{escape(axes.along)}</text>"
    )
    return "".join(parts)


def _band(frame: _Frame, band: Band) -> str:
    lows = [frame.place((x, low)) for x, low, _ in band.points]
    highs = [frame.place((x, high)) for x, _, high in band.points]
    if band.bars:
        path = "".join(f"M{x} {low}V{high}" for (x, low), (_, high) in zip(lows, highs, strict=True))
        return f'<path stroke="{band.colour}" stroke-width="1" d="{path}"/>'
    return f'<path fill="{band.colour}" fill-opacity=".13" d="{_path([*lows, *reversed(highs)])}Z"/>'


def _line(frame: _Frame, line: Line) -> str:
    points = [frame.place(point) for point in line.points]
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    return f'<path fill="none" stroke="{line.colour}" stroke-width="1.6"{dash} d="{_path(points)}"/>'


def _dot(frame: _Frame, point: Point, colour: str, *, ring: bool = False) -> str:
    """Draw a point that lies inside the axes; nothing if it is outside."""
    if not (frame.axes.x.holds(point[0]) and frame.axes.y.holds(point[1])):
        return ""
    x, y = frame.place(point)
    if ring:
        return f'<circle cx="{x}" cy="{y}" r="3.6" fill="#fff" stroke="{colour}" stroke-width="2"/>'
    return f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>'


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _labels(frame: _Frame, lines: Sequence[Line]) -> str:
    _, top, right, bottom = frame.edges
    ends = [min(max(frame.place(line.points[-1])[1], top), bottom) for line in lines]
    return "".join(
        f'<text class="name" x="{right + 6}" y="{height + 3}" fill="{line.colour}">'
        f"{escape(line.label)}</text>"
        for line, height in zip(lines, _label_heights(ends, bottom), strict=True)
    )


def _label_heights(wanted: list[float], bottom: float, apart: float = 11.0) -> list[float]:
    """Move labels down until none covers another, and all of them up again if one would leave the frame."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = dict.fromkeys(order, 0.0)
    last = float("-inf")
    for index in order:
        last = placed[index] = max(wanted[index], last + apart)
    over = max(0.0, last - bottom)
    return [placed[index] - over for index in range(len(wanted))]
