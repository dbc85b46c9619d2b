"""Adaptive precision: it gives the same labels as single precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from db.models.card import FasterPrecision
from deploy.models import default_model
from tests.pictures import read_picture
from worker.runtime.loading import load_model
from worker.runtime.passes import Passes, outputs_of
from worker.runtime.precision import TOLERANCE, LoadedModel, Row, ladder
from worker.runtime.protocol import Output, Precision, Runtime
from worker.runtime.torch.device import native_bf16

CPU = torch.device("cpu")
INT8, BF16, FP32 = Precision


class Scripted:
    """A runtime with given probabilities in each number format; `precisions` of its card are their errors."""

    depends_on_pass_size = True

    def __init__(
        self,
        like: Runtime,
        script: dict[Precision, list[float]],
        errors: dict[Precision, float],
        threshold: float = 0.5,
    ) -> None:
        faster = {str(one): FasterPrecision(error=error) for one, error in errors.items()}
        self.card = like.card.model_copy(update={"threshold": threshold, "precisions": faster})
        self.script = script
        self.precisions = frozenset(script)

    def forward(self, pixels: np.ndarray, precision: Precision) -> Output:
        """Return the given probabilities; the value of a picture's pixels is its index."""
        found = [self.script[precision][int(number)] for number in pixels[:, 0, 0, 0]]
        rows = np.zeros((len(found), 2), dtype=np.float32)
        rows[:, self.card.positive_columns[0]] = found
        rows[:, 1 - self.card.positive_columns[0]] = 1 - rows[:, self.card.positive_columns[0]]
        return Output(rows, np.zeros((len(found), 1), dtype=np.float32))


def predict(runtime: Runtime, pixels: np.ndarray, *, adaptive: bool) -> list[Row | None]:
    """Return the rows of a batch's pictures in their order."""
    passes = Passes[int](LoadedModel(runtime), adaptive=adaptive, size=16)
    rows = dict([*passes.add(enumerate(pixels)), *passes.finish()])
    return [rows[index] for index in range(len(pixels))]


def numbered(count: int) -> np.ndarray:
    pixels = np.zeros((count, 4, 4, 3), dtype=np.uint8)
    pixels[:] = np.arange(count).reshape(-1, 1, 1, 1)
    return pixels


def found(runtime: Scripted, count: int) -> list[tuple[float, str]]:
    """Return the probability and the number format of each picture."""
    column = runtime.card.positive_columns[0]
    rows = predict(runtime, numbered(count), adaptive=True)
    return [(round(float(row.values[column]), 4), str(row.precision)) for row in rows if row]


def test_what_a_fast_format_leaves_in_doubt_is_computed_again(artefact: Path) -> None:
    script = {
        BF16: [0.001, 0.5, 0.999, 0.97, float("nan"), 1e-5, 0.99999],
        FP32: [0.9, 0.6, 0.1, 0.96, 0.3, 0.5, 0.5],
    }
    runtime = Scripted(load_model(artefact, device="cpu"), script, {BF16: 0.5})
    assert found(runtime, 7) == [
        (0.001, "bf16"), (0.6, "fp32"), (0.999, "bf16"), (0.96, "fp32"), (0.3, "fp32"),
        (0.0, "bf16"), (1.0, "bf16"),
    ]  # fmt: skip


def test_a_picture_goes_on_to_the_fastest_format_that_can_leave_no_doubt(artefact: Path) -> None:
    # Log odds 6.9, 4.6 and 3.5; with an error of 1 the second could be 3.6, which is 0.016 less likely.
    script = {INT8: [0.999, 0.99, 0.97], BF16: [0.1, 0.9901, 0.1], FP32: [0.1, 0.1, 0.9702]}
    runtime = Scripted(load_model(artefact, device="cpu"), script, {INT8: 1, BF16: 0.3})
    assert found(runtime, 3) == [(0.999, "int8"), (0.9901, "bf16"), (0.9702, "fp32")]


def test_no_error_that_the_card_allows_for_changes_a_label_or_a_probability_by_more_than_a_hundredth(
    artefact: Path,
) -> None:
    like = load_model(artefact, device="cpu")
    odds = np.linspace(-9, 9, 200)
    for threshold, error in ((0.5, 0.2), (0.7, 0.6), (0.995, 0.4), (0.01, 2.0)):
        for moved in (-error, error):
            cheap, exact = chance(odds), chance(odds + 0.999 * moved)
            runtime = Scripted(like, {BF16: [*cheap], FP32: [*exact]}, {BF16: error}, threshold)
            rows = np.array([one for one, _ in found(runtime, 200)])
            assert np.abs(rows - exact).max() <= TOLERANCE + 1e-4
            assert ((rows >= threshold) == (exact.round(4) >= threshold)).all()


def chance(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("errors", [{}, {INT8: 0.1}])
def test_a_format_is_used_only_if_card_and_device_have_it(
    artefact: Path, errors: dict[Precision, float]
) -> None:
    runtime = Scripted(load_model(artefact, device="cpu"), {BF16: [0.9999], FP32: [0.9]}, errors)
    assert found(runtime, 1) == [(0.9, "fp32")]


def test_without_adapting_everything_is_in_single_precision(
    artefact: Path, random_pixels: np.ndarray
) -> None:
    runtime = load_model(artefact, device="cpu")
    rows = predict(runtime, random_pixels, adaptive=False)
    assert {row.precision for row in rows} == {Precision.FP32}
    assert np.array_equal(
        np.stack([row.values for row in rows]), outputs_of(runtime, random_pixels).probabilities
    )


def test_a_device_says_whether_it_computes_bfloat16() -> None:
    known = torch.cpu.get_capabilities()
    assert native_bf16(CPU) == any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_labels_of_real_radiographs_are_those_of_single_precision(shared: Path, name: str) -> None:
    files = sorted((shared / "chest_xray_original").rglob("*.jpeg"))[::2]
    pixels = np.stack([read_picture(file).pixels for file in files])
    runtime = load_model(default_model(), runtime=name, device="cpu")
    column = runtime.card.positive_columns[0]
    exact = outputs_of(runtime, pixels).probabilities[:, column]
    rows = predict(runtime, pixels, adaptive=True)
    found = np.array([row.values[column] for row in rows])
    assert {row.precision for row in rows} == {*ladder(runtime)}
    assert ((found >= runtime.card.threshold) == (exact >= runtime.card.threshold)).all()
    assert np.abs(found - exact).max() < TOLERANCE
