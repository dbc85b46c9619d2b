"""Adaptive precision: it gives the same labels as single precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.models import default_model
from tests.pictures import read_picture
from worker.runtime.loading import load_model
from worker.runtime.passes import Passes, probabilities_of
from worker.runtime.precision import Row
from worker.runtime.protocol import Precision, Runtime
from worker.runtime.torch.device import native_bf16

CPU = torch.device("cpu")


class Scripted:
    """A runtime with given probabilities: those of `cheap` in bfloat16, else those of `exact`."""

    depends_on_pass_size = True

    def __init__(self, like: Runtime, cheap: list[float], exact: list[float], threshold: float) -> None:
        self.card = like.card.model_copy(update={"threshold": threshold})
        self.cheap, self.exact = cheap, exact

    def probabilities(self, pixels: np.ndarray, precision: Precision) -> np.ndarray:
        """Return the given probabilities; the value of a picture's pixels is its index."""
        script = self.cheap if precision is Precision.BF16 else self.exact
        found = [script[int(number)] for number in pixels[:, 0, 0, 0]]
        rows = np.zeros((len(found), 2), dtype=np.float32)
        rows[:, self.card.positive_columns[0]] = found
        rows[:, 1 - self.card.positive_columns[0]] = 1 - rows[:, self.card.positive_columns[0]]
        return rows


def predict(runtime: Runtime, pixels: np.ndarray, *, adaptive: bool) -> list[Row | None]:
    """Return the rows of a batch's pictures in their order."""
    passes = Passes[int](runtime, adaptive=adaptive, size=16)
    rows = dict([*passes.add(enumerate(pixels)), *passes.finish()])
    return [rows[index] for index in range(len(pixels))]


def numbered(count: int) -> np.ndarray:
    pixels = np.zeros((count, 4, 4, 3), dtype=np.uint8)
    pixels[:] = np.arange(count).reshape(-1, 1, 1, 1)
    return pixels


def test_only_clear_cut_pictures_stay_in_bfloat16(artefact: Path) -> None:
    cheap = [0.001, 0.5, 0.999, 0.97, float("nan"), 0.0, 1.0]
    exact = [0.9, 0.6, 0.1, 0.96, 0.3, 0.5, 0.5]
    runtime = Scripted(load_model(artefact, device="cpu"), cheap, exact, 0.5)
    rows = predict(runtime, numbered(7), adaptive=True)
    column = runtime.card.positive_columns[0]
    found = [(round(float(row.values[column]), 4), str(row.precision)) for row in rows]
    assert found == [
        (0.001, "bf16"), (0.6, "fp32"), (0.999, "bf16"), (0.96, "fp32"), (0.3, "fp32"),
        (0.0, "bf16"), (1.0, "bf16"),
    ]  # fmt: skip


def test_near_an_extreme_threshold_only_the_clearest_pictures_stay_in_bfloat16(artefact: Path) -> None:
    runtime = Scripted(load_model(artefact, device="cpu"), [0.996, 0.9999], [0.9, 0.9], 0.995)
    assert [row.precision for row in predict(runtime, numbered(2), adaptive=True)] == ["fp32", "bf16"]


def test_without_adapting_everything_is_in_single_precision(
    artefact: Path, random_pixels: np.ndarray
) -> None:
    runtime = load_model(artefact, device="cpu")
    rows = predict(runtime, random_pixels, adaptive=False)
    assert {row.precision for row in rows} == {Precision.FP32}
    assert np.array_equal(np.stack([row.values for row in rows]), probabilities_of(runtime, random_pixels))


def test_a_device_says_whether_it_computes_bfloat16() -> None:
    known = torch.cpu.get_capabilities()
    assert native_bf16(CPU) == any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@pytest.mark.shared
def test_labels_of_real_radiographs_are_those_of_single_precision(shared: Path) -> None:
    files = sorted((shared / "chest_xray_original").rglob("*.jpeg"))[::2]
    pixels = np.stack([read_picture(file).pixels for file in files])
    runtime = load_model(default_model(), device="cpu")
    column = runtime.card.positive_columns[0]
    exact = probabilities_of(runtime, pixels)[:, column]
    rows = predict(runtime, pixels, adaptive=True)
    found = np.array([row.values[column] for row in rows])
    assert {row.precision for row in rows} == {Precision.FP32, Precision.BF16}
    assert ((found >= runtime.card.threshold) == (exact >= runtime.card.threshold)).all()
    assert np.abs(found - exact).max() < 0.01
