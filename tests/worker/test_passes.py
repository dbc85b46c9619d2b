"""A picture's probabilities are the same whatever is computed beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.models import default_model
from worker.imaging import read_picture
from worker.runtime.passes import Passes
from worker.runtime.torch import Precision, ResidentLearner

CPU = torch.device("cpu")
SIZE = 4


@pytest.fixture(scope="module")
def pictures(phantoms: Path) -> np.ndarray:
    """Read phantoms, which the shipped model is sure of, and noise, which it is not."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    read = [read_picture(file).pixels for file in sorted((phantoms / "jpeg").iterdir())]
    return np.stack([*read, *np.kron(noise, np.ones((1, 8, 8, 1), dtype=np.uint8))])


@pytest.fixture(scope="module")
def learner() -> ResidentLearner:
    return ResidentLearner.load(default_model(), device=CPU)


def computed(learner: ResidentLearner, *portions: np.ndarray, adaptive: bool = False) -> list[bytes]:
    """Compute a batch that comes in portions; return each picture's probabilities as they are in memory."""
    passes = Passes[int](learner, adaptive=adaptive, size=SIZE)
    rows, count = {}, 0
    for portion in portions:
        rows |= dict(passes.add((count + index, picture) for index, picture in enumerate(portion)))
        count += len(portion)
    rows |= dict(passes.finish())
    return [row.values.tobytes() for _, row in sorted(rows.items()) if row is not None]


def test_a_probability_does_not_depend_on_the_batch_its_order_or_its_other_pictures(
    learner: ResidentLearner, pictures: np.ndarray
) -> None:
    together = computed(learner, pictures)
    assert len(together) == len(pictures)
    assert [computed(learner, picture[None])[0] for picture in pictures[:3]] == together[:3], "alone"
    assert computed(learner, pictures[::-1]) == together[::-1], "in another order"
    assert computed(learner, pictures[:1], pictures[1:4], pictures[4:]) == together, "in portions"
    strangers = np.zeros((2, 224, 224, 3), dtype=np.uint8)
    assert computed(learner, strangers, pictures[:1], strangers)[2] == together[0], "beside strangers"


@pytest.mark.parametrize("precision", list(Precision))
def test_a_row_of_a_pass_depends_on_neither_its_place_nor_its_neighbours(
    artefact: Path, pictures: np.ndarray, precision: Precision
) -> None:
    learner = ResidentLearner.load(artefact, device=CPU)
    first = learner.probabilities(pictures[:1], precision, SIZE)[0]
    for place in range(1, SIZE):
        beside = np.concatenate([pictures[-place:], pictures[:1]])
        assert (learner.probabilities(beside, precision, SIZE)[place] == first).all()


class Counted(ResidentLearner):
    """A learner that notes the size and the precision of each pass; every second picture is unclear."""

    def __init__(self, like: ResidentLearner) -> None:
        self.card, self.passes = like.card, list[tuple[Precision, int, int]]()

    def probabilities(self, pixels: np.ndarray, precision: Precision, size: int) -> np.ndarray:
        self.passes.append((precision, len(pixels), size))
        unclear = pixels[:, 0, 0, 0] % 2 == 1
        return np.stack([np.where(unclear, 0.5, 1.0), np.where(unclear, 0.5, 0.0)], axis=1).astype(np.float32)


def test_pictures_wait_until_a_pass_is_full_and_so_do_those_that_are_computed_again(
    learner: ResidentLearner,
) -> None:
    counted = Counted(learner)
    passes = Passes[int](counted, adaptive=True, size=SIZE)
    rows = []
    for start in range(0, 21, 3):
        numbers = np.arange(start, start + 3, dtype=np.uint8)
        rows += passes.add((int(n), np.full((2, 2, 3), n, dtype=np.uint8)) for n in numbers)
    assert {size for _, _, size in counted.passes} == {SIZE}
    assert {count for _, count, _ in counted.passes} == {SIZE}, "none was begun that was not full"
    assert [one for one, _, _ in counted.passes].count(Precision.FP32) == 2
    rows += passes.finish()
    assert sorted(number for number, _ in rows) == list(range(21))
    assert {number % 2 for number, row in rows if row and row.precision is Precision.FP32} == {1}
