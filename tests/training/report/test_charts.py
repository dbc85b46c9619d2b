"""Charts: the ticks that people use, and what is drawn."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from training.report.charts import Axes, Band, Line, Ring, chart, scale


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0.8, 1, (0.8, 0.85, 0.9, 0.95, 1)),
        (0.93, 1, (0.92, 0.94, 0.96, 0.98, 1)),
        (0, 0.693, (0, 0.2, 0.4, 0.6, 0.8)),
        (0, 7.3, (0, 2, 4, 6, 8)),
        (0, 0.0041, (0, 0.001, 0.002, 0.003, 0.004, 0.005)),
    ],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, ticks: tuple[float, ...]) -> None:
    found = scale(low, high)
    assert found.ticks == ticks
    assert (found.low, found.high) == (ticks[0], ticks[-1])


@pytest.mark.parametrize(
    ("last", "ticks"), [(1, (0, 1)), (3, (0, 1, 2, 3)), (7, (0, 2, 4, 6)), (20, (0, 5, 10, 15, 20))]
)
def test_epochs_are_whole_numbers(last: int, ticks: tuple[float, ...]) -> None:
    found = scale(0, last, whole=True)
    assert found.ticks == ticks
    assert (found.low, found.high) == (0, last)


def test_one_value_alone_has_a_scale() -> None:
    assert scale(0.5, 0.5).part(0.5) == pytest.approx(0.5, abs=0.5)


def test_a_chart_is_valid_svg_with_its_band_ring_and_labels_escaped() -> None:
    axes = Axes("A < B", "x", "y", square=True)
    drawn = chart(
        axes,
        [Line("one & two", [(0, 0), (1, 1)]), Line("empty", []), Line("", [(0, 1), (1, 0)])],
        [Band([(0, 0, 0.2), (1, 0.8, 1)]), Band([(0.5, 0.4, 0.6)], bars=True)],
        [Ring((0.1, 0.9))],
    )
    root = ElementTree.fromstring(drawn)  # noqa: S314  (our own)
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert "one & two" in texts
    assert "empty" not in texts
    assert {"0", "0.2", "1"} <= set(texts)
    assert 'fill-opacity=".13"' in drawn
    assert 'stroke-width="2"' in drawn
    assert "<title>A &lt; B</title>" in drawn


def test_labels_of_curves_that_end_together_do_not_cover_each_other() -> None:
    drawn = chart(Axes("t", "x", "y"), [Line(name, [(0, 0), (1, 1)]) for name in "abcdef"])
    heights = sorted(float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', drawn))
    assert len(heights) == 6
    assert min(after - before for before, after in pairwise(heights)) >= 11


def test_a_square_chart_has_equal_units_on_both_axes() -> None:
    drawn = chart(Axes("t", "x", "y", square=True), [Line("", [(0, 0), (1, 1)])])
    points = re.search(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', drawn)
    assert points is not None
    x0, y0, x1, y1 = (float(value) for value in points.groups())
    assert x1 - x0 == pytest.approx(y0 - y1)


def test_what_is_outside_the_axes_is_cut_off() -> None:
    corner = Axes("t", "x", "y", scale(0, 0.2), scale(0.8, 1))
    drawn = chart(
        corner, [Line("a", [(0, 0), (0.1, 0.9), (1, 1)])], rings=[Ring((0.5, 0.5)), Ring((0.1, 0.9))]
    )
    assert drawn.count("<circle") == 1
    nested = re.search(r'<svg x="51" y="13" width="(\d+)" height="(\d+)" viewBox="51 13 (\d+) (\d+)">', drawn)
    assert nested is not None
    assert nested.groups()[:2] == nested.groups()[2:]
    assert re.search(r'class="name" x="\d+" y="17', drawn), (
        "the label of a line that leaves the axes is at the edge"
    )
