"""What is learnt with a model about the pictures of its training hospital."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db.models.card import ModelInvalid
from db.models.store import WEIGHTS_FILE, digest_of, read_card
from training.trust import familiarity
from training.trust.familiarity import learn_familiarity, learn_from_features
from worker.runtime.features import feature_count
from worker.trust.familiarity import unpack_statistics


def cloud(count: int, features: int, seed: int) -> np.ndarray:
    """Draw features that vary along a few directions much more than along the others."""
    chance, shape = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(12, features))
    strong = chance.normal(size=(count, 12)) @ shape
    return (3 + strong + 0.3 * chance.normal(size=(count, features))).astype(np.float32)


def test_too_few_pictures_tell_nothing(artefact: Path, hospital: np.ndarray) -> None:
    card, weights = read_card(artefact), (artefact / WEIGHTS_FILE).read_bytes()
    assert learn_familiarity(card, weights, hospital[:99], hospital[:200]) is None
    assert learn_familiarity(card, weights, hospital[:200], hospital[:99]) is None


def test_it_is_the_same_each_time_and_looks_at_some_of_the_pictures(
    artefact: Path, hospital: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiarity, "_PICTURES", 20)
    monkeypatch.setattr(familiarity, "_LEAST", 10)
    card, weights = read_card(artefact), (artefact / WEIGHTS_FILE).read_bytes()
    first, second = (learn_familiarity(card, weights, hospital[:40], hospital[40:52]) for _ in range(2))
    assert first is not None
    assert first == second
    assert (first.card.images, first.card.held_out) == (20, 12)
    assert first.card.digest == digest_of(first.content)


def test_a_distance_is_that_of_the_shrunk_normal_distribution(artefact: Path) -> None:
    card = read_card(artefact)
    features = feature_count(card.backbone)
    training, held_out = cloud(300, features, 1), cloud(200, features, 2)
    found = unpack_statistics(card, learn_from_features(card, training, held_out).content)
    components = found.components.astype(np.float64)
    assert np.abs(components @ components.T - np.eye(len(components))).max() < 1e-2
    standard = (held_out[0].astype(np.float64) - found.mean) / found.scale
    along = components @ standard
    expected = (along**2 / found.variances).sum() + (standard @ standard - along @ along) / found.rest[0]
    assert found.distance(held_out[0]) == pytest.approx(np.log(expected), rel=1e-3)
    # Twelve directions, and no more, are told from the rest.
    assert found.variances[11] > 20 * found.variances[12]


def test_unseen_features_are_uniformly_familiar_and_others_not(artefact: Path) -> None:
    card = read_card(artefact)
    features = feature_count(card.backbone)
    learnt = learn_from_features(card, cloud(300, features, 1), cloud(400, features, 2))
    found = unpack_statistics(card, learnt.content)
    unseen = [found.familiarity(found.distance(one)) for one in cloud(400, features, 3)]
    assert np.mean(unseen) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.array(unseen) < 0.1) == pytest.approx(0.1, abs=0.06)
    shifted = cloud(20, features, 4) + np.float32(3) * np.resize([1, -1], features).astype(np.float32)
    assert max(found.familiarity(found.distance(one)) for one in shifted) < 0.01


def test_statistics_of_another_backbone_are_refused(artefact: Path) -> None:
    card = read_card(artefact)
    features = feature_count(card.backbone)
    learnt = learn_from_features(card, cloud(40, features, 1), cloud(20, features, 2))
    other = card.model_copy(update={"backbone": "resnet50"})
    with pytest.raises(ModelInvalid):
        unpack_statistics(other, learnt.content)
