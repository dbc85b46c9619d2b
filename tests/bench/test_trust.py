"""How far the default model can be trusted, and whether the system says so: the tables of `docs/trust.md`.

It needs the images of the training hospital and of another one, and computes about nine thousand pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from db.models.store import read_card
from db.trust.comparison import CHANCE, FEWEST, UNLIKE_EFFECT, rank_sum_test
from deploy.models import default_model
from tests.bench.figures import Figures
from tests.conftest import SHARED
from tests.worker.trust.test_familiarity import STRANGE
from training.data.classes import CLASSES
from training.data.dataset import Dataset, read_dataset, read_held_out
from training.data.labelled import find_labelled
from training.recipe import find_recipe
from worker.phantoms import draw_phantom
from worker.runtime.loading import chosen, load_model
from worker.runtime.passes import outputs_of
from worker.runtime.protocol import Precision
from worker.trust.familiarity import UNFAMILIAR_BELOW, load_statistics

Pictures = NDArray[np.uint8]

#: Cohorts that are drawn by chance.
DRAWS = 1000
#: Pictures that are changed into strange ones.
SOME = 100

pytestmark = [pytest.mark.bench, pytest.mark.shared]


@dataclass(frozen=True, slots=True)
class Found:
    """What the model says of pictures."""

    #: float64, (N,).
    probability: NDArray[np.float64]
    familiarity: NDArray[np.float64]

    @property
    def unfamiliar(self) -> float:
        return float((self.familiarity < UNFAMILIAR_BELOW).mean())


@cache
def hospital() -> Dataset:
    """Read the images that the default model was made from, divided as they were then."""
    data = find_labelled(SHARED / "data" / "chest_xray_224")
    return read_dataset(list(data), CLASSES, find_recipe("clinical"))


@cache
def held_out() -> Pictures:
    return hospital().pictures.pixels[hospital().held_out]


@cache
def adults() -> Dataset:
    return read_held_out(find_labelled(SHARED / "data" / "nih_adult_224"), CLASSES)


def ask(pictures: Pictures) -> Found:
    """Ask the default model, in single precision."""
    folder = default_model()
    card = read_card(folder)
    statistics = load_statistics(folder, card)
    assert statistics is not None
    outputs = outputs_of(load_model(folder, runtime=chosen("auto")), np.ascontiguousarray(pictures))
    return Found(
        outputs.probabilities[:, card.positive_columns].sum(axis=1).astype(np.float64),
        np.array([statistics.familiarity(statistics.distance(one)) for one in outputs.features]),
    )


@cache
def asked(which: str) -> Found:
    return ask(held_out() if which == "held out" else adults().pictures.pixels)


def cropped(pictures: Pictures) -> Pictures:
    """Cut a tenth of each side away."""
    parts = (Image.fromarray(one).crop((11, 11, 213, 213)).resize((224, 224)) for one in pictures)
    return np.stack([np.asarray(part) for part in parts])


VIEWS: dict[str, Callable[[Pictures], Pictures]] = {
    "mirrored": lambda pictures: pictures[:, :, ::-1],
    "cropped by a tenth": cropped,
    "gamma 1.6": lambda pictures: (255 * (pictures / 255) ** 1.6).astype(np.uint8),
}


def test_the_default_model_is_as_its_card_says(figures: Figures) -> None:
    card = read_card(default_model())
    assert hospital().summary().fingerprint == card.training["data_fingerprint"], "other images"
    threshold = card.threshold
    truth = hospital().positive[hospital().held_out]

    def add(name: str, positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
        area = float(roc_auc_score(positive, probability))
        called = probability >= threshold
        figures.add("default model, AUC", name, area, "")
        figures.add("sensitivity at its threshold", name, float(called[positive].mean()), "")
        figures.add("specificity at its threshold", name, float((~called[~positive]).mean()), "")
        return area

    area = add("held out", truth, asked("held out").probability)
    assert area == pytest.approx(card.metrics["validation"]["auc"]["value"], abs=1e-3)  # type: ignore[call-overload,index]
    for name, change in VIEWS.items():
        assert add(name, truth, ask(change(held_out())).probability) > 0.98
    add("adults of another hospital", adults().positive, asked("adults").probability)


def test_strange_pictures_are_unfamiliar(figures: Figures) -> None:
    some = held_out()[:: len(held_out()) // SOME][:SOME]
    phantoms = [Image.fromarray((draw_phantom(seed) * 255).astype(np.uint8)) for seed in range(20)]
    kinds = {name: np.stack([change(one) for one in some]) for name, change in STRANGE.items()}
    kinds["phantoms"] = np.stack([np.asarray(one.resize((224, 224)).convert("RGB")) for one in phantoms])
    shares = {name: ask(pictures).unfamiliar for name, pictures in kinds.items()}
    shares["adults of another hospital"] = asked("adults").unfamiliar
    for name, share in shares.items():
        figures.add("unfamiliar", name, share, "", goal=0.95)
    figures.add("unfamiliar", "held out", asked("held out").unfamiliar, "")
    assert asked("held out").unfamiliar <= 0.01
    assert min(shares.values()) >= 0.95


def distrusted(familiarities: NDArray[np.float64], ranked: int) -> bool:
    """Tell whether a cohort of these familiarities would be named."""
    effect, chance = rank_sum_test(len(familiarities), float(familiarities.sum()), ranked)
    return len(familiarities) >= FEWEST and chance < CHANCE and effect >= UNLIKE_EFFECT


def test_a_cohort_of_another_hospital_is_named_and_one_of_the_same_is_not(figures: Figures) -> None:
    chance = np.random.default_rng(0)
    ranked = len(held_out())
    shares = {
        name: float(
            np.mean([distrusted(chance.choice(found, count, replace=False), ranked) for _ in range(DRAWS)])
        )
        for name, found, count in (
            ("50 adults", asked("adults").familiarity, 50),
            ("200 unseen pictures", asked("held out").familiarity, 200),
        )
    }
    figures.add("cohorts named", "50 adults", shares["50 adults"], "", goal=0.99)
    figures.add("cohorts named", "200 unseen pictures", shares["200 unseen pictures"], "", goal=0.05)
    assert shares["50 adults"] >= 0.99
    assert shares["200 unseen pictures"] <= 0.05


def test_every_precision_gives_the_same_label_and_caution() -> None:
    """All pictures of the training hospital's held-out part and all adults, as screening computes them."""
    from worker.runtime.passes import Passes
    from worker.runtime.precision import LoadedModel
    from worker.trust.familiarity import is_unfamiliar

    folder = default_model()
    card = read_card(folder)
    statistics = load_statistics(folder, card)
    assert statistics is not None
    passes: Passes[int] = Passes(
        LoadedModel(load_model(folder, runtime=chosen("auto")), statistics), adaptive=True, size=16
    )
    for which, pictures in (("held out", held_out()), ("adults", adults().pictures.pixels)):
        exact = asked(which)
        rows = dict([*passes.add(enumerate(pictures)), *passes.finish()])
        found = np.array([rows[one].values[card.positive_columns].sum() for one in range(len(pictures))])  # type: ignore[union-attr]
        assert ((found >= card.threshold) == (exact.probability >= card.threshold)).all()
        assert np.abs(found - exact.probability).max() <= 0.01
        cautions = [
            is_unfamiliar(statistics.familiarity(rows[one].distance))  # type: ignore[union-attr,arg-type]
            for one in range(len(pictures))
        ]
        assert (np.array(cautions) == (exact.familiarity < UNFAMILIAR_BELOW)).all()
        assert any(row is not None and row.precision is not Precision.FP32 for row in rows.values()) or (
            not card.precisions
        )
