"""Passes: a picture's probabilities do not depend on the other pictures of its pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from db.models.card import FasterPrecision
from deploy.models import default_model
from worker.runtime.loading import load_model
from worker.runtime.passes import Passes, outputs_of
from worker.runtime.precision import LoadedModel
from worker.runtime.protocol import Output, Precision, Runtime

SIZE = 4


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_model(default_model(), device="cpu")


def computed(runtime: Runtime, *portions: np.ndarray, adaptive: bool = False) -> list[bytes]:
    """Compute a batch that arrives in portions; return the bytes of each picture's probabilities."""
    passes = Passes[int](LoadedModel(runtime), adaptive=adaptive, size=SIZE)
    rows, count = {}, 0
    for portion in portions:
        rows |= dict(passes.add((count + index, picture) for index, picture in enumerate(portion)))
        count += len(portion)
    rows |= dict(passes.finish())
    return [row.values.tobytes() for _, row in sorted(rows.items()) if row is not None]


def test_a_probability_does_not_depend_on_the_batch_its_order_or_its_other_pictures(
    runtime: Runtime, pictures: np.ndarray
) -> None:
    together = computed(runtime, pictures)
    assert len(together) == len(pictures)
    assert [computed(runtime, picture[None])[0] for picture in pictures[:3]] == together[:3], "alone"
    assert computed(runtime, pictures[::-1]) == together[::-1], "in another order"
    assert computed(runtime, pictures[:1], pictures[1:4], pictures[4:]) == together, "in portions"
    strangers = np.zeros((2, 224, 224, 3), dtype=np.uint8)
    assert computed(runtime, strangers, pictures[:1], strangers)[2] == together[0], "beside other pictures"


@pytest.mark.parametrize("precision", list(Precision))
def test_a_row_of_a_pass_depends_on_neither_its_place_nor_its_neighbours(
    artefact: Path, pictures: np.ndarray, precision: Precision
) -> None:
    runtime = load_model(artefact, device="cpu")
    first = outputs_of(runtime, pictures[:1], precision, SIZE).probabilities[0]
    for place in range(1, SIZE):
        beside = np.concatenate([pictures[-place:], pictures[:1]])
        assert (outputs_of(runtime, beside, precision, SIZE).probabilities[place] == first).all()


class Counted:
    """A runtime that records the precision and the size of each pass; every second picture is unclear."""

    depends_on_pass_size = True

    precisions = frozenset({Precision.BF16, Precision.FP32})

    def __init__(self, like: Runtime) -> None:
        faster = {"bf16": FasterPrecision(error=0.5)}
        self.card = like.card.model_copy(update={"precisions": faster})
        self.passes = list[tuple[Precision, int]]()

    def forward(self, pixels: np.ndarray, precision: Precision) -> Output:
        self.passes.append((precision, len(pixels)))
        unclear = pixels[:, 0, 0, 0] % 2 == 1
        rows = np.stack([np.where(unclear, 0.5, 1.0), np.where(unclear, 0.5, 0.0)], axis=1)
        return Output(rows.astype(np.float32), np.zeros((len(pixels), 1), np.float32))


def test_pictures_wait_until_a_pass_is_full_and_so_do_those_that_are_computed_again(
    runtime: Runtime,
) -> None:
    counted = Counted(runtime)
    passes = Passes[int](LoadedModel(counted), adaptive=True, size=SIZE)
    rows = []
    for start in range(0, 21, 3):
        numbers = np.arange(start, start + 3, dtype=np.uint8)
        rows += passes.add((int(n), np.full((2, 2, 3), n, dtype=np.uint8)) for n in numbers)
    assert {count for _, count in counted.passes} == {SIZE}
    assert len(rows) < 21, "a pass started before it was full"
    assert [one for one, _ in counted.passes].count(Precision.FP32) == 2
    rows += passes.finish()
    assert sorted(number for number, _ in rows) == list(range(21))
    assert {number % 2 for number, row in rows if row and row.precision is Precision.FP32} == {1}
