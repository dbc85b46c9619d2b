"""The report's page, as a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.evaluation.promotion import Challenge, decide
from training.outcome import Answers, BackboneOutcome, Comparison
from training.recipe import RecipeName
from training.report.page import page, write_report

#: The types of the fixtures `outcome`, `compare` and `report`.
Outcome = Callable[..., BackboneOutcome]
Compared = Callable[..., Comparison]
Reported = Callable[..., dict[str, Any]]


class Links(HTMLParser):
    """A parser that collects the references of a page, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.closed_details = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "details" and ("open", None) not in attrs:
            self.closed_details += 1
        if tag not in ("meta", "img", "br", "path", "circle", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag


@pytest.fixture
def shown(compare: Compared, report: Reported) -> str:
    """Return the page of a comparison with a champion."""
    comparison = compare(recipe=RecipeName.CLINICAL)
    champion = Answers("champion-0123456789ab", comparison.answers[0].probability, 0.5)
    decision = decide(comparison.answers[1], champion, comparison.held_out)
    return page(report(comparison, Challenge(decision, champion)))


def test_the_page_loads_nothing_else_and_names_no_file(shown: str) -> None:
    links = Links()
    links.feed(shown)
    assert links.open == []
    assert links.references
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in links.references)
    assert "<script" not in shown
    assert "url(" not in shown
    assert not re.search(r"/(home|tmp|work)/", shown)
    assert "never a diagnosis" in shown
    assert "alexnet (seed 42) was not trained: training-diverged" in shown
    assert "no file is known that may be read: 6 labelled images." in shown
    assert "<code>retrain --names</code>" in shown


def test_a_single_image_is_one_image_on_the_page(compare: Compared, report: Reported) -> None:
    comparison = compare()
    data = replace(comparison.data, without_file=1, unreadable={"corrupt-image": 1}, told_by={"name": 1})
    shown = page(report(replace(comparison, data=data)))
    assert "no file is known that may be read: 1 labelled image." in shown
    assert "1 image could not be read (corrupt-image)." in shown
    assert not re.search(r"\b1 [a-z -]*images\b", shown)


def test_everything_is_open_and_prints(shown: str) -> None:
    links = Links()
    links.feed(shown)
    assert "<details open>" in shown
    assert links.closed_details == 0
    printed = shown[shown.index("@media print") :]
    assert "details::details-content" in printed
    assert ".wide { overflow: visible; }" in printed


def test_values_and_intervals_do_not_break_inside(shown: str) -> None:
    assert "td.m, .line td { white-space: nowrap; }" in shown
    cells = re.findall(r'<td class="m"><b>([^<]+)</b> <small>([^<]+)</small></td>', shown)
    assert len(cells) > 20
    assert all(re.fullmatch(r"[+-]?\d\.\d{3}", value) for value, _ in cells)
    assert all(re.fullmatch(r"[+-]?\d\.\d{3} to [+-]?\d\.\d{3}", interval) for _, interval in cells)


def test_the_rule_the_winner_and_the_gate_are_on_the_page(shown: str) -> None:
    assert "How the winner is chosen" in shown
    assert "The rule was fixed before the run." in shown
    assert '<tr class="winner"><th scope="row">resnet50</th>' in shown
    assert "Against the champion" in shown
    assert "is compared with the champion (champion-0123456789ab) on the same 200 images" in shown
    assert "cross-fitted" in shown
    for role in ("champion", "challenger"):
        assert f'<th scope="row">{role}</th>' in shown


def test_roc_curves_have_the_diagonal_bands_and_operating_points(shown: str) -> None:
    roc = shown[shown.index("<title>ROC of resnet18</title>") :]
    roc = roc[: roc.index("</figure>")]
    assert "stroke-dasharray" in roc
    assert "fill-opacity" in roc
    assert roc.count('fill="#fff"') == 1
    assert "bootstrap over patients" in shown
    reliability = shown[shown.index("<title>Reliability of resnet18</title>") :]
    assert "10 groups of about equally many images" in shown
    assert reliability.index("Reliability in figures") < reliability.index("Epoch by epoch")


def test_curves_in_the_corner_are_drawn_larger(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    good = compare(outcome("resnet18", 0.9, truth), outcome("resnet50", 1.0, truth))
    assert "ROC, upper left corner" in page(report(good))
    assert "ROC, upper left corner" not in page(report(compare(outcome("resnet18", 9.0, truth))))


def test_the_thesis_table_is_beside_the_one_of_its_recipe(compare: Compared, report: Reported) -> None:
    shown = page(report(compare()))
    assert "0.99618" not in shown  # the thesis' accuracy is shown with its interval, so with fewer digits
    assert "resnet50, thesis" in shown
    assert "no image fitted them" in shown
    assert "fewer than 20" in shown
    assert "Several of those 250 may be of one patient; that is not known." in shown


def test_random_weights_are_marked_in_red(compare: Compared, report: Reported) -> None:
    red = '<p class="red">Started from random weights'
    comparison = compare()
    assert red not in page(report(comparison))
    first, *others = comparison.outcomes
    random = replace(comparison, outcomes=(replace(first, initial_weights_digest=None), *others))
    assert f"{red}, not from ImageNet: resnet18" in page(report(random))


def test_a_warning_is_in_red(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    shown = page(report(compare(outcome("alexnet", 3.0, truth, threshold=0.01))))
    assert '<p class="red">Attention: at its operating point alexnet misreads' in shown


def test_one_backbone_and_several_seeds_have_a_page(
    outcome: Outcome, compare: Compared, report: Reported, truth: np.ndarray
) -> None:
    assert "Are the differences real?" not in page(report(compare(outcome("resnet18", 3.0, truth))))
    seeds = compare(outcome("resnet18", 2.0, truth), outcome("resnet18", 2.0, truth, seed=43))
    assert "Over several seeds" in page(report(seeds))


def test_file_names_are_escaped(compare: Compared, report: Reported) -> None:
    comparison = compare()
    names = tuple(f"<b>{index}</b>.png" for index in range(len(comparison.held_out.truth)))
    named = replace(comparison, held_out=replace(comparison.held_out, names=names))
    shown = page(report(named))
    assert re.search(r"&lt;b&gt;\d+&lt;/b&gt;\.png", shown)
    assert "retrain --names" not in shown


def test_equal_findings_make_equal_files(compare: Compared, report: Reported, tmp_path: Path) -> None:
    comparisons = compare(), replace(compare())
    found = [report(comparison) for comparison in comparisons]
    assert found[0] is not found[1]
    pages = [write_report(one, tmp_path / name).read_text() for one, name in zip(found, "ab", strict=True)]
    assert pages[0] == pages[1]
    assert json.loads((tmp_path / "a" / "report.json").read_text())["run"] == 7
