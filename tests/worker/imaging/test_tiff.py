"""TIFF files: byte orders, depths, alpha, tiles, thumbnails, and kinds that are refused by their names."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from db.jobs.problems import CorruptImage, ImageProblem, MultiFrame, TooManyPixels
from tests.pictures import decode
from tests.worker.imaging.tiffs import (
    BITS,
    COMPRESSION,
    DIFFERENCES,
    IN_PLANES,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    SAMPLE_FORMAT,
    SAMPLES,
    TILE_LENGTH,
    TILE_WIDTH,
    Page,
    grey,
    packed,
    tiff,
)
from worker.imaging.rasters.grey import squeeze_values

WHITE_IS_ZERO = {f"_{PHOTOMETRIC}": 0}
REDUCED = {"_254": 1}


@pytest.fixture(scope="module")
def deep(scene: np.ndarray) -> np.ndarray:
    """Return the scene as 16 bits that reach from black to white."""
    pixels = (scene.astype(np.uint32) * 65535 // int(scene.max())).astype(np.uint16)
    assert pixels.max() == 65535
    return pixels


@pytest.fixture(scope="module")
def shown(deep: np.ndarray) -> np.ndarray:
    return squeeze_values(deep, 16)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("packing", ["raw", "deflate", "differences"])
def test_sixteen_bits_are_read_in_every_arrangement(
    deep: np.ndarray, shown: np.ndarray, order: str, big: bool, tile: int, packing: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, deep.shape, np.uint16)
    with_alpha = np.stack([deep, noise], axis=2)
    how = {"order": order, "tile": tile, "strips": 7, "deflate": packing != "raw"}
    if packing == "differences":
        how[f"_{PREDICTOR}"] = DIFFERENCES
    pages = {
        "black is zero": grey(deep, **how),
        "white is zero": grey(65535 - deep, **how, **WHITE_IS_ZERO),
        "with alpha": grey(with_alpha, **how, _338=2),
        "with something else": grey(with_alpha, **how, _338=0),
        "in planes": grey(with_alpha, **how, _338=2, **{f"_{PLANAR}": IN_PLANES}),
    }
    for name, page in pages.items():
        difference = decode(tiff(page, order=order, big=big)).astype(int) - shown
        # 1 - x in single precision may round to the other side.
        assert np.abs(difference).max() <= (1 if name == "white is zero" else 0), name


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_eight_bits_are_read_in_every_arrangement(deep: np.ndarray, order: str, big: bool) -> None:
    pixels = (deep >> 8).astype(np.uint8)
    expected = squeeze_values(pixels, 8)
    pages = (
        grey(pixels),
        grey(255 - pixels, **WHITE_IS_ZERO),
        grey(np.stack([pixels, pixels[::-1]], axis=2), _338=2),
        grey(255 - np.stack([pixels, pixels[::-1]], axis=2), _338=2, **WHITE_IS_ZERO),
        grey(pixels, tile=32, deflate=True),
    )
    for page in pages:
        assert np.array_equal(decode(tiff(page, order=order, big=big)), expected)


@pytest.mark.parametrize("bits", [3, 5, 9, 10, 12, 14, 15])
@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_without_a_gap_between_them_are_read(deep: np.ndarray, bits: int, order: str) -> None:
    pixels = deep >> (16 - bits)
    expected = squeeze_values(pixels, bits)
    assert np.array_equal(decode(tiff(packed(pixels, bits), order=order)), expected)
    inverted = packed(2**bits - 1 - pixels, bits, **WHITE_IS_ZERO)
    assert np.abs(decode(tiff(inverted, order=order)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("used", [10, 12, 14])
def test_the_depth_of_the_detector_is_the_scale_of_sixteen_bits(deep: np.ndarray, used: int) -> None:
    pixels = deep >> (16 - used)
    expected = squeeze_values(pixels, used)
    assert np.array_equal(decode(tiff(grey(pixels))), expected)
    assert expected.max() > 200
    inverted = grey(2**used - 1 - pixels, **WHITE_IS_ZERO)
    assert np.abs(decode(tiff(inverted)).astype(int) - expected).max() <= 1


def test_sixteen_bits_with_alpha_come_out_upright(deep: np.ndarray, shown: np.ndarray) -> None:
    turned = np.stack([deep[::-1, ::-1], deep], axis=2)
    assert np.array_equal(decode(tiff(grey(turned, _338=2, **{f"_{ORIENTATION}": 3}))), shown)


@pytest.mark.parametrize("big", [False, True])
def test_a_page_beside_its_thumbnails_is_one_picture(deep: np.ndarray, shown: np.ndarray, big: bool) -> None:
    full, half, small = grey(deep), deep[::2, ::2], deep[::4, ::4]
    dark = np.zeros((60, 120), np.uint16)
    for pages in (
        (full, grey(small, **REDUCED)),
        (grey(small, **REDUCED), full),
        (grey(small), full),
        (full, grey(half), grey(small)),
        # The old tag for the same, a mask, and a thumbnail of another shape.
        (full, grey(deep[::-1], _255=2)),
        (full, grey(deep[::-1], _254=4)),
        (grey(dark), full),
    ):
        assert np.array_equal(decode(tiff(*pages, big=big)), shown)
    eight = grey((deep >> 8).astype(np.uint8))
    thumbnail = grey((small >> 8).astype(np.uint8))
    assert np.array_equal(decode(tiff(thumbnail, eight, big=big)), decode(tiff(eight)))


def test_a_smaller_copy_below_a_page_is_no_second_picture(deep: np.ndarray, shown: np.ndarray) -> None:
    assert np.array_equal(decode(tiff(grey(deep), below=(grey(deep[::2, ::2], **REDUCED),))), shown)
    # As cameras write them: the thumbnail first, the picture below it.
    assert np.array_equal(decode(tiff(grey(deep[::4, ::4], **REDUCED), below=(grey(deep),))), shown)


def test_two_pictures_are_several_frames(deep: np.ndarray) -> None:
    for other in (deep[::-1], deep[:200], deep[:150, :], np.kron(deep, np.ones((1, 2), np.uint16))):
        with pytest.raises(MultiFrame):
            decode(tiff(grey(deep), grey(other)))


def test_directories_in_a_circle_end(deep: np.ndarray, shown: np.ndarray) -> None:
    content = bytearray(tiff(grey(deep)))
    content[-4:] = content[4:8]
    assert np.array_equal(decode(bytes(content)), shown)


def refused(page: Page) -> tuple[str, str]:
    with pytest.raises(ImageProblem) as caught:
        decode(tiff(page))
    return caught.value.code, caught.value.detail


def test_what_is_whole_and_not_read_is_refused_by_its_name(deep: np.ndarray) -> None:
    eight = (deep >> 8).astype(np.uint8)
    colour = np.stack([deep] * 3, axis=2)
    unsupported = {
        "floating point": grey(deep, **{f"_{SAMPLE_FORMAT}": 3}),
        "signed samples": grey(deep, **{f"_{SAMPLE_FORMAT}": 2}),
        "32 bits": grey(deep.astype(np.uint32)),
        "5 samples of greyscale": grey(np.stack([eight] * 5, axis=2)),
        "colour filter array": grey(deep, **{f"_{PHOTOMETRIC}": 32803}),
        "CIELAB": grey(np.stack([eight] * 3, axis=2), **{f"_{PHOTOMETRIC}": 8}),
        "photometric interpretation 77": grey(deep, **{f"_{PHOTOMETRIC}": 77}),
        "colour of 16 bits in planes": grey(colour, **{f"_{PHOTOMETRIC}": 2, f"_{PLANAR}": IN_PLANES}),
        "predictor 3 of 16 bits": grey(deep, deflate=True, **{f"_{PREDICTOR}": 3}),
        # A palette of 16 bits, and one of 8 bits whose colours are missing.
        "unknown pixel mode": grey(deep, **{f"_{PHOTOMETRIC}": 3}),
    }
    for name, page in unsupported.items():
        code, detail = refused(page)
        assert code == "unsupported-pixels", name
        assert name in detail
    undecoded = {
        "TIFF, JPEG 2000": {f"_{COMPRESSION}": 34712},
        "TIFF, WebP": {f"_{COMPRESSION}": 50001},
        "TIFF, LERC": {f"_{COMPRESSION}": 34887},
        "TIFF, compression 12345": {f"_{COMPRESSION}": 12345},
        "TIFF, JPEG of 1 x 16 bits": {f"_{COMPRESSION}": 7},
    }
    for name, tags in undecoded.items():
        assert refused(grey(deep, **tags)) == ("no-decoder", name)


def test_a_page_without_a_photometric_interpretation_is_not_guessed(deep: np.ndarray) -> None:
    content = tiff(grey(deep)).replace(b"\x06\x01\x04\0", b"\x07\x01\x04\0")
    with pytest.raises(ImageProblem) as caught:
        decode(content)
    assert caught.value.code == "unsupported-pixels"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("how", [{}, {"deflate": True}, {"tile": 64}])
def test_a_truncated_deep_page_is_corrupt(deep: np.ndarray, share: float, how: dict[str, int]) -> None:
    content = tiff(grey(deep, **how))
    with pytest.raises(CorruptImage):
        decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("deep_pixels", [False, True])
@pytest.mark.parametrize("how", [{"strips": 7}, {"tile": 64}, {"strips": 7, "deflate": True}])
def test_a_missing_strip_or_tile_is_not_black(
    deep: np.ndarray, deep_pixels: bool, how: dict[str, int]
) -> None:
    page = grey(deep if deep_pixels else (deep >> 8).astype(np.uint8), **how)
    with pytest.raises(CorruptImage):
        decode(tiff(Page(**vars_of(page) | {"pieces": page.pieces[:-1]})))


def test_missing_and_senseless_tags_are_corrupt(deep: np.ndarray) -> None:
    page = grey(deep)
    for tags in ({BITS: 0}, {TILE_WIDTH: 0, TILE_LENGTH: 64}, {278: 0}, {SAMPLES: 0}):
        with pytest.raises(CorruptImage):
            decode(tiff(Page(**vars_of(page) | {"tags": {**page.tags, **tags}})))


def vars_of(page: Page) -> dict[str, object]:
    return {one.name: getattr(page, one.name) for one in fields(page)}


def test_a_page_or_tile_over_the_limit_is_refused_before_it_is_decoded(deep: np.ndarray) -> None:
    page = grey(deep)
    for tags in ({256: 60_000, 257: 60_000}, {TILE_WIDTH: 1 << 20, TILE_LENGTH: 1 << 20}):
        with pytest.raises(TooManyPixels):
            decode(tiff(Page(**vars_of(page) | {"tags": {**page.tags, **tags}})))
