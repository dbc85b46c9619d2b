"""The report of a training run, as a page and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from training.outcome import (
    BackboneOutcome,
    Comparison,
    DataSummary,
    EpochResult,
    FailedBackbone,
    HeldOut,
)
from training.report.findings import build_report
from training.report.page import write_report

N = 200


def outcome(backbone: str, noise: float, truth: np.ndarray, seed: int = 42) -> BackboneOutcome:
    random = np.random.default_rng(seed + len(backbone))
    logit = (truth * 2.0 - 1) * 3 + random.normal(0, noise, len(truth))
    probability = 1 / (1 + np.exp(-logit))
    return BackboneOutcome(
        backbone=backbone,
        seed=seed,
        model_id=f"{backbone}-0123456789ab",
        epochs=tuple(
            EpochResult(epoch=n, train_loss=0.9 / (n + 1), valid_loss=1.0 / (n + 1), accuracy=0.8 + n / 20)
            for n in range(3)
        ),
        probabilities=np.stack([1 - probability, probability], axis=1),
        temperature=1.1,
        threshold=0.4,
        seconds=90.0,
        peak_memory_bytes=2_000_000_000,
        initial_weights_digest="ab" * 32,
    )


@pytest.fixture
def comparison() -> Comparison:
    truth = (np.arange(N) % 4 > 0).astype(np.int64)
    kinds = tuple("BACTERIAL" if i % 8 < 4 else "VIRAL" for i in range(N))
    return Comparison(
        run_id=7,
        finished_at="2026-01-01T00:00:00+00:00",
        recipe="thesis",
        settings={"epochs": 2},
        software={"pneumoscreen": "0.1"},
        device="CPU",
        data=DataSummary(
            fingerprint="f" * 64,
            training={"NORMAL": 100, "PNEUMONIA": 300},
            held_out={"NORMAL": 50, "PNEUMONIA": 150},
            unreadable={"corrupt-image": 2},
            duplicates=3,
            told_by={"name": 350, "nothing": 250},
            leaked=5,
            without_file=6,
        ),
        held_out=HeldOut(
            classes=("NORMAL", "PNEUMONIA"),
            positives=("PNEUMONIA",),
            truth=truth,
            groups=np.arange(N) // 2,
            digests=tuple(f"{i:064x}" for i in range(N)),
            pixels=np.random.default_rng(0).integers(0, 255, (N, 32, 32, 3), dtype=np.uint8),
            subgroups={
                "type": tuple(kind if truth[i] else None for i, kind in enumerate(kinds)),
                "sex": tuple("female" if i < 30 else "male" for i in range(N)),
            },
        ),
        outcomes=(outcome("resnet18", 3.0, truth), outcome("resnet50", 1.0, truth)),
        failed=(FailedBackbone(backbone="alexnet", seed=42, problem="training-diverged"),),
        baseline=np.random.default_rng(1).random(N),
    )


def test_measures_are_those_of_an_independent_count(comparison: Comparison) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    found = build_report(comparison)["backbones"][0]
    positive = comparison.held_out.positive
    probability = comparison.outcomes[0].answers(comparison.held_out).probability
    called = probability >= 0.4
    assert found["measures"]["AUC"]["value"] == pytest.approx(roc_auc_score(positive, probability))
    assert found["measures"]["AUC"]["low"] < found["measures"]["AUC"]["value"]
    assert found["measures"]["sensitivity"]["value"] == pytest.approx(called[positive].mean())
    assert found["measures"]["PPV"]["value"] == pytest.approx(positive[called].mean())
    assert found["measures"]["NPV"]["value"] == pytest.approx((~positive)[~called].mean())
    assert found["calibration"]["brier"] == pytest.approx(brier_score_loss(positive, probability))
    assert found["confusion"] == [
        [int((~called & ~positive).sum()), int((called & ~positive).sum())],
        [int((~called & positive).sum()), int((called & positive).sum())],
    ]
    worst = found["confused"][0]
    of_truth = np.where(positive, probability, 1 - probability)
    assert worst["probability"] == pytest.approx(probability[of_truth.argmin()])


def test_cells_under_20_are_not_shown(comparison: Comparison, tmp_path: Path) -> None:
    found = build_report(comparison)
    rows = {(row["attribute"], row["value"]): row for row in found["backbones"][0]["subgroups"]}
    few = rows["sex", "female"]
    assert (few["specificity"], few["specificity_n"]) == (None, None)
    assert few["sensitivity_n"] == 22
    assert rows["type", "VIRAL"]["specificity"] is None
    assert "fewer than 20" in write_report(found, tmp_path).read_text()


class Links(HTMLParser):
    """A parser that collects the references of a page, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "path", "circle", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag


def test_the_page_loads_nothing_else_and_names_no_file(comparison: Comparison, tmp_path: Path) -> None:
    page = write_report(build_report(comparison), tmp_path).read_text()
    links = Links()
    links.feed(page)
    assert links.open == []
    assert links.references
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in links.references)
    assert "<script" not in page
    assert "url(" not in page
    assert not re.search(r"/(home|tmp|work)/", page)
    assert "never a diagnosis" in page
    assert "alexnet" in page
    assert "6 labelled images have no file" in page
    assert "0.99618" not in page  # the thesis' accuracy is shown with its interval, so with fewer digits
    assert "resnet50, thesis" in page
    assert "noise" in page
    assert "No backbone differs" in page or "differ by more than noise" in page


def test_the_page_says_how_patients_were_identified(comparison: Comparison, tmp_path: Path) -> None:
    page = write_report(build_report(comparison), tmp_path).read_text()
    assert "the number in the file&#39;s name (350 images)" in page
    assert "Several of those 250 may be of one patient; that is not known." in page
    known = replace(comparison, data=replace(comparison.data, told_by={"header": 600}))
    page = write_report(build_report(known), tmp_path).read_text()
    assert "Patients were identified by the Patient ID in the file (600 images)." in page
    assert "that is not known" not in page


def test_random_weights_are_marked_in_red(comparison: Comparison, tmp_path: Path) -> None:
    red = '<p class="red">Started from random weights'
    assert red not in write_report(build_report(comparison), tmp_path).read_text()
    first, *others = comparison.outcomes
    random = replace(comparison, outcomes=(replace(first, initial_weights_digest=None), *others))
    assert f"{red}, not from ImageNet: resnet18" in write_report(build_report(random), tmp_path).read_text()


def test_one_backbone_alone_and_several_seeds_are_reported(comparison: Comparison, tmp_path: Path) -> None:
    alone = build_report(replace(comparison, outcomes=comparison.outcomes[:1]))
    assert alone["paired"] == []
    write_report(alone, tmp_path)
    truth = comparison.held_out.truth
    seeds = (outcome("resnet18", 2.0, truth), outcome("resnet18", 2.0, truth, seed=43))
    found = build_report(replace(comparison, outcomes=seeds))
    assert [one["name"] for one in found["backbones"]] == ["resnet18 (seed 42)", "resnet18 (seed 43)"]
    assert found["seeds"][0]["AUC"]["low"] <= found["seeds"][0]["AUC"]["value"]
    assert "Over several seeds" in write_report(found, tmp_path).read_text()


def test_equal_findings_make_equal_files(comparison: Comparison, tmp_path: Path) -> None:
    pages = [write_report(build_report(comparison), tmp_path / name).read_text() for name in ("a", "b")]
    assert pages[0] == pages[1]
    assert json.loads((tmp_path / "a" / "report.json").read_text())["run"] == 7
