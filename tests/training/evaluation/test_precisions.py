"""What is learnt about faster number formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db.models.card import FasterPrecision, ModelCard
from db.models.store import WEIGHTS_FILE, read_card
from tests.pictures import read_picture
from training.evaluation import precisions
from training.evaluation.precisions import learn_precisions
from worker.runtime.openvino.runtime import load as load_fast
from worker.runtime.protocol import Precision
from worker.runtime.torch.device import best_device, native_bf16
from worker.trust.familiarity import load_statistics


@pytest.fixture(scope="module")
def pictures(phantoms: Path) -> np.ndarray:
    return np.stack([read_picture(file).pixels for file in sorted((phantoms / "jpeg").iterdir())])


def learn(folder: Path, pictures: np.ndarray, **more: bool) -> tuple[ModelCard, dict[str, float]]:
    """Return the card with what was learnt, and the errors."""
    card = read_card(folder)
    faster = learn_precisions(card, (folder / WEIGHTS_FILE).read_bytes(), pictures, **more)
    return card.model_copy(update={"precisions": faster}), {name: one.error for name, one in faster.items()}


def learnt_from(exact: np.ndarray, found: np.ndarray) -> FasterPrecision:
    """Return what is learnt from log odds."""
    return precisions._learnt(precisions._Found(exact, None), precisions._Found(found, None))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two phantoms be enough: what is learnt from them is not used."""
    monkeypatch.setattr(precisions, "_LEAST", 1)


def test_too_few_pictures_say_nothing(
    artefact: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "_LEAST", len(pictures) + 1)
    assert learn(artefact, pictures)[1] == {}


def test_errors_far_from_doubt_count_if_there_are_few_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, found = np.array([0.0, 9.0, 9.0]), np.array([0.1, 9.0, 11.0])
    assert learnt_from(exact, found).error == pytest.approx(0.5)
    monkeypatch.setattr(precisions, "_LEAST", 2)
    assert learnt_from(exact, found).error == pytest.approx(5 * np.sqrt(4.01 / 3), abs=1e-3)


def test_a_model_learns_its_ranges_and_errors_the_same_each_time(
    artefact: Path, pictures: np.ndarray
) -> None:
    card, errors = learn(artefact, pictures)
    assert card == learn(artefact, pictures)[0]
    assert {*errors} == {"int8", *(["bf16"] if native_bf16(best_device()) else [])}
    # ResNet-18 has an input of a convolution in each block, and one before each block but the first.
    assert len(card.precisions["int8"].ranges) == 14
    assert all(error > 0 for error in errors.values())
    assert ModelCard.model_validate_json(card.as_file()) == card


def test_bfloat16_is_learnt_where_it_is_slow_only_if_asked_for(
    artefact: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runtime.torch.runtime.native_bf16", lambda _: False)
    assert {*learn(artefact, pictures)[1]} == {"int8"}
    assert {*learn(artefact, pictures, emulate=True)[1]} == {"int8", "bf16"}


def test_without_openvino_no_whole_numbers_are_learnt(
    artefact: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "find_spec", lambda _: None)
    assert "int8" not in learn(artefact, pictures)[1]


def test_with_statistics_a_format_also_learns_how_far_it_moves_a_distance(
    knowing_artefact: Path, hospital: np.ndarray
) -> None:
    card, pictures = read_card(knowing_artefact), hospital[:8]
    weights, statistics = (
        (knowing_artefact / WEIGHTS_FILE).read_bytes(),
        load_statistics(knowing_artefact, card),
    )
    assert statistics is not None
    learnt = learn_precisions(card, weights, pictures, statistics)["int8"]
    assert learnt.distance_error is not None
    fast = load_fast(card.model_copy(update={"precisions": {"int8": learnt}}), weights)
    distances = [
        [statistics.distance(one) for one in fast.forward(pictures, precision).features]
        for precision in (Precision.FP32, Precision.INT8)
    ]
    assert np.abs(np.subtract(*distances)).max() <= learnt.distance_error


def test_an_error_is_no_less_than_all_that_were_found_among_pictures_that_matter() -> None:
    exact = np.array([0.0, 1.0, -5.0, 5.9, 9.0])
    found = exact + np.array([0.1, -0.2, 0.1, 0.0, 3.0])
    learnt = learnt_from(exact, found)
    assert learnt.error == pytest.approx(5 * np.sqrt((0.01 + 0.04 + 0.01) / 4), abs=1e-3)
    one = learnt_from(np.zeros(100), np.array([1.0, *np.zeros(99)]))
    assert one.error == 1.0
    assert learnt_from(exact, exact).error == 0.01
