"""Which pictures have nothing to look at."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from db.engine import Database
from db.tables import Prediction
from tests.pictures import read_picture, save_film, small_film
from tests.worker.screening.batches import outcomes, submit
from worker.gate.quality import judge_quality, measure
from worker.imaging.picture import Picture, squeeze
from worker.phantoms import draw_phantom
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

Grey = np.ndarray
SHAPE = (300, 260)


def picture(grey: Grey) -> Picture:
    return Picture(pixels=squeeze(Image.fromarray(np.asarray(grey, dtype=np.uint8))), digest="", facts=None)


def code(grey: Grey) -> str | None:
    (verdict,) = judge_quality([picture(grey)])
    assert verdict.score is not None
    assert (verdict.score < 1) == (verdict.problem is not None)
    return None if verdict.problem is None else verdict.problem.code


def film(seed: int = 0) -> Grey:
    return np.round(draw_phantom(seed, SHAPE) * 255)


def noise(grain: int, draw: Callable[[np.random.Generator, tuple[int, int]], Grey]) -> Grey:
    """Draw noise with so many grains on a side."""
    drawn = np.clip(draw(np.random.default_rng(grain), (grain, grain)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(drawn).resize(SHAPE[::-1], Image.Resampling.BILINEAR))


def test_a_film_passes_bright_dark_inverted_or_with_half_its_contrast() -> None:
    for seed in range(5):
        for seen in (
            film(seed),
            255 - film(seed),
            film(seed) / 2,
            film(seed) / 2 + 127,
            film(seed) // 16 * 16,
        ):
            assert code(seen) is None


@pytest.mark.parametrize("grey", [0, 1, 128, 254, 255])
def test_a_picture_of_one_grey_has_no_contrast(grey: int) -> None:
    assert code(np.full(SHAPE, grey)) == "no-contrast"


@pytest.mark.parametrize("bits", [8, 10, 11, 12])
def test_a_picture_of_fewer_bits_than_are_shown_has_no_contrast(bits: int) -> None:
    assert code(film() * 2**bits / 2**16) == "no-contrast"


def test_a_window_far_off_has_no_contrast() -> None:
    assert code(np.clip((film() - 300) * 20, 0, 255)) == "no-contrast"
    assert code(np.clip((film() + 50) * 20, 0, 255)) == "no-contrast"


def test_a_picture_of_14_bits_in_16_has_a_narrow_range() -> None:
    assert code(film() / 4) == "narrow-range"


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_marker_on_an_empty_picture_is_no_range(ground: int) -> None:
    empty = np.full(SHAPE, float(ground))
    empty[4:20, 4:24] = 255 - ground
    assert code(empty) in ("narrow-range", "no-contrast")


def test_a_picture_in_black_and_white_or_few_greys_has_few_greys() -> None:
    assert code((film() > 120) * 255) == "few-greys"
    assert code(np.clip((film() - 120) * 60, 0, 255)) == "few-greys"
    half = np.zeros(SHAPE)
    half[:, : SHAPE[1] // 2] = 255
    assert code(half) == "few-greys"


@pytest.mark.parametrize("grain", [32, 48, 64, 96, 150, 260])
@pytest.mark.parametrize(
    "draw",
    [
        lambda random, shape: random.integers(0, 256, shape),
        lambda random, shape: random.normal(128, 60, shape),
        lambda random, shape: random.gamma(2, 60, shape),
        lambda random, shape: (random.random(shape) < 0.5) * 255,
    ],
    ids=["uniform", "normal", "gamma", "salt and pepper"],
)
def test_noise_of_any_kind_and_grain_has_no_structure(
    grain: int, draw: Callable[[np.random.Generator, tuple[int, int]], Grey]
) -> None:
    assert code(noise(grain, draw)) in ("no-structure", "few-greys")


def test_fine_noise_is_no_contrast_once_it_is_small() -> None:
    fine = np.random.default_rng(0).integers(0, 256, (2500, 2000))
    assert code(fine) == "no-contrast"


def test_the_measures_are_what_they_are_called() -> None:
    pixels = picture(film(3)).pixels[:, :, 1]
    ((deviation, span, entropy, structure),) = measure(pixels[None])
    assert deviation == pytest.approx(pixels.std(), abs=1e-3)
    low, high = np.quantile(pixels, (0.01, 0.99), method="inverted_cdf")
    assert span == pytest.approx(high - low, abs=1)
    shares = np.unique_counts(pixels).counts / pixels.size
    assert entropy == pytest.approx(-(shares * np.log2(shares)).sum())
    means = pixels.reshape(8, 28, 8, 28).mean(axis=(1, 3))
    assert structure == pytest.approx(means.var() / pixels.var(), rel=1e-4)


def test_a_picture_is_judged_alike_alone_and_in_a_pass() -> None:
    pictures = [picture(film(seed)) for seed in range(4)] + [picture(np.zeros(SHAPE))]
    together = [verdict.score for verdict in judge_quality(pictures)]
    assert together == [judge_quality([one])[0].score for one in pictures]
    assert judge_quality([]) == []


@pytest.mark.usefixtures("model")
def test_pictures_without_content_fail_with_their_code_and_have_no_number(
    database: Database, tmp_path: Path
) -> None:
    drawn = {
        "white": np.full((300, 300), 255),
        "black": np.zeros((300, 300)),
        "noise": np.random.default_rng(0).integers(0, 256, (224, 224)),
        "two": (film() > 120) * 255,
    }
    files = [save_film(tmp_path / "film.png")]
    for name, grey in drawn.items():
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(grey.astype(np.uint8)).save(files[-1])
    Screener(database, WorkerSettings(forward_images=2)).screen(submit(database, files))
    assert outcomes(database) == {
        "film.png": "done",
        "white.png": "no-contrast",
        "black.png": "no-contrast",
        "noise.png": "no-structure",
        "two.png": "few-greys",
    }
    with database.read() as session:
        assert len(session.scalars(select(Prediction)).all()) == 1


def test_judging_costs_little_beside_decoding(tmp_path: Path) -> None:
    """A small JPEG of 224 x 224 is what decodes fastest."""
    file = tmp_path / "film.jpg"
    small_film(0, side=224).save(file)

    def seconds(act: Callable[[], object]) -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start

    pictures = [read_picture(file)] * 16
    judge_quality(pictures)
    ratios = [
        seconds(lambda: judge_quality(pictures)) / seconds(lambda: [read_picture(file) for _ in range(16)])
        for _ in range(9)
    ]
    assert statistics.median(ratios) < 1


@pytest.mark.shared
def test_no_real_picture_is_refused(shared: Path) -> None:
    files = sorted(path for path in shared.rglob("*") if path.suffix in (".jpeg", ".jpg", ".png"))
    lowest = 9.0
    for start in range(0, len(files), 64):
        for file, verdict in zip(
            files[start : start + 64],
            judge_quality([read_picture(one) for one in files[start : start + 64]]),
            strict=True,
        ):
            assert verdict.problem is None, file.name
            lowest = min(lowest, verdict.score or 0)
    # The limits keep a distance from the real pictures.
    assert lowest > 1.3
