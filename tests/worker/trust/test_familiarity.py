"""A picture's familiarity: high for the training hospital's own pictures, low for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from db.models.card import FasterPrecision
from db.models.store import WEIGHTS_FILE, read_card
from tests.pictures import small_film
from worker.runtime.loading import load_model
from worker.runtime.passes import Passes, outputs_of
from worker.runtime.precision import LoadedModel
from worker.runtime.protocol import Precision, Runtime
from worker.runtime.torch.runtime import load
from worker.trust.familiarity import UNFAMILIAR_BELOW, Statistics, is_unfamiliar, load_statistics

_CHANCE = np.random.default_rng(5)


def page(_: np.ndarray) -> np.ndarray:
    """Draw a page of text."""
    image = PIL.Image.new("L", (224, 224), 255)
    draw = PIL.ImageDraw.Draw(image)
    for line in range(5, 220, int(_CHANCE.integers(10, 16))):
        letters = "".join(chr(97 + letter) for letter in _CHANCE.integers(26, size=36))
        draw.text((8, line), letters, fill=0)
    return np.asarray(image.convert("RGB"))


def noise(_: np.ndarray) -> np.ndarray:
    side = int(_CHANCE.choice([4, 8, 16, 56, 112]))
    grains = _CHANCE.integers(0, 256, (side, side, 1), dtype=np.uint8)
    return np.kron(grains, np.ones((224 // side, 224 // side, 3), dtype=np.uint8))


def blank(_: np.ndarray) -> np.ndarray:
    return np.full((224, 224, 3), _CHANCE.integers(256), dtype=np.uint8)


#: What is no picture of the hospital, made from one that is.
STRANGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": noise,
    "blank": blank,
    "text": page,
    "negative": lambda picture: 255 - picture,
    "upside down": lambda picture: picture[::-1],
    "on its side": lambda picture: np.rot90(picture).copy(),
    "a part of it": lambda picture: np.kron(picture[:112, :112], np.ones((2, 2, 1), dtype=np.uint8)),
}


@pytest.fixture(scope="module")
def unseen() -> np.ndarray:
    """Draw other pictures of the same hospital."""
    return np.stack([np.asarray(small_film(seed, 224).convert("RGB")) for seed in range(1000, 1040)])


@pytest.fixture(scope="module")
def statistics(knowing_artefact: Path) -> Statistics:
    found = load_statistics(knowing_artefact, read_card(knowing_artefact))
    assert found is not None
    return found


@pytest.fixture(scope="module", params=["torch", "openvino"])
def runtime(knowing_artefact: Path, request: pytest.FixtureRequest) -> Runtime:
    return load_model(knowing_artefact, runtime=request.param, device="cpu")


def familiarities(runtime: Runtime, statistics: Statistics, pictures: np.ndarray) -> np.ndarray:
    features = outputs_of(runtime, np.ascontiguousarray(pictures)).features
    return np.array([statistics.familiarity(statistics.distance(one)) for one in features])


def test_unseen_pictures_of_the_training_hospital_are_familiar(
    runtime: Runtime, statistics: Statistics, unseen: np.ndarray
) -> None:
    found = familiarities(runtime, statistics, unseen)
    # Uniform from 0 to 1: the mean of 40 has a standard deviation of 0.05.
    assert 0.3 < found.mean() < 0.7
    assert np.mean(found < UNFAMILIAR_BELOW) <= 0.05


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_picture_of_that_hospital_is_unfamiliar(
    kind: str, runtime: Runtime, statistics: Statistics, unseen: np.ndarray
) -> None:
    pictures = np.stack([STRANGE[kind](picture) for picture in unseen[:12]])
    assert (familiarities(runtime, statistics, pictures) < UNFAMILIAR_BELOW).all()


def test_a_picture_has_the_same_distance_in_any_pass(
    runtime: Runtime, statistics: Statistics, unseen: np.ndarray
) -> None:
    size, pictures = 4, unseen[:6]
    model = LoadedModel(runtime, statistics)

    def distances(order: list[int]) -> list[float | None]:
        passes = Passes[int](model, adaptive=False, size=size)
        rows = dict([*passes.add((place, pictures[place]) for place in order), *passes.finish()])
        return [row.distance for _, row in sorted(rows.items()) if row is not None]

    together = distances([0, 1, 2, 3, 4, 5])
    assert distances([5, 3, 1, 4, 2, 0]) == together
    assert [distances([place])[0] for place in range(6)] == together


def test_the_libraries_agree_on_features(knowing_artefact: Path, unseen: np.ndarray) -> None:
    one, other = (
        outputs_of(load_model(knowing_artefact, runtime=name, device="cpu"), unseen[:4]).features
        for name in ("torch", "openvino")
    )
    assert one.dtype == other.dtype == np.float32
    assert np.abs(one - other).max() < 1e-3 * np.abs(one).max()


def test_bfloat16_moves_features_and_not_their_meaning(
    knowing_artefact: Path, statistics: Statistics, unseen: np.ndarray
) -> None:
    card = read_card(knowing_artefact)
    runtime = load(card, (knowing_artefact / WEIGHTS_FILE).read_bytes(), device="cpu")
    single, half = (
        outputs_of(runtime, unseen[:4], precision).features for precision in (Precision.FP32, Precision.BF16)
    )
    assert half.dtype == np.float32
    moved = [
        statistics.distance(one) - statistics.distance(two) for one, two in zip(single, half, strict=True)
    ]
    assert np.abs(moved).max() < 0.5


@pytest.mark.parametrize("count", [1, 99, 100, 101, 199, 200, 299, 1047, 5000])
def test_a_picture_is_unfamiliar_if_and_only_if_it_is_beyond_the_limit(
    statistics: Statistics, count: int
) -> None:
    held_out = np.arange(count, dtype=np.float32)
    counted = replace(statistics, held_out=held_out)
    for distance in [*held_out[-60:], count + 0.5]:
        familiarity = counted.familiarity(float(distance))
        assert 0 < familiarity <= 1
        if count >= 100:
            assert is_unfamiliar(familiarity) == (distance > counted.limit)
    assert counted.familiarity(-1) == 1
    # One in a hundred of few pictures is none.
    assert is_unfamiliar(counted.familiarity(count + 1)) == (count >= 100)


def test_features_that_are_no_numbers_are_unfamiliar(statistics: Statistics) -> None:
    distance = statistics.distance(np.full(len(statistics.mean), np.nan, dtype=np.float32))
    assert is_unfamiliar(statistics.familiarity(distance))


def test_a_model_without_statistics_calls_nothing_unfamiliar(artefact: Path) -> None:
    assert load_statistics(artefact, read_card(artefact)) is None
    assert not is_unfamiliar(None)


@pytest.mark.parametrize(("error", "again"), [(0.001, False), (0.5, True), (None, True)])
def test_a_fast_format_leaves_the_caution_in_doubt_only_near_the_limit(
    error: float | None, again: bool, knowing_artefact: Path, statistics: Statistics, unseen: np.ndarray
) -> None:
    card = read_card(knowing_artefact)
    # So sure that the probability is never in doubt.
    faster = {"int8": FasterPrecision(error=0.001, distance_error=error)}
    runtime = load_model(
        knowing_artefact,
        card=card.model_copy(update={"precisions": faster, "threshold": 1.0}),
        runtime="openvino",
    )
    (distance,) = [statistics.distance(one) for one in runtime.forward(unseen[:1], Precision.INT8).features]
    near = replace(statistics, held_out=np.full(100, distance + 0.1, dtype=np.float32))
    passes = Passes[int](LoadedModel(runtime, near), adaptive=True, size=1)
    ((_, row),) = [*passes.add([(0, unseen[0])]), *passes.finish()]
    assert row is not None
    assert (row.precision is Precision.FP32) == again
