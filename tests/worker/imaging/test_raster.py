"""Raster files: JPEG, PNG, TIFF and BMP."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from db.jobs.problems import CorruptImage, MultiFrame, TooFewPixels, TooManyPixels, UnsupportedPixels
from tests.pictures import decode, read_picture
from worker.imaging.limits import Limits


def encoded(image: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    image = Image.open(BytesIO(content)).convert("RGB")
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def grey(scene: np.ndarray) -> np.ndarray:
    return (scene >> 4).astype(np.uint8)


@pytest.fixture(scope="module")
def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey[::-1], 255 - grey], axis=2)


def by_fastai(path: Path) -> np.ndarray:
    from worker.torchvision_pair import import_torchvision

    import_torchvision()
    from fastai.vision.all import PILImage, Resize

    return np.asarray(Resize(224, method="squish")(PILImage.create(path), split_idx=1))


def test_jpeg_is_bit_for_bit_what_fastai_sees(tmp_path: Path, grey: np.ndarray, rgb: np.ndarray) -> None:
    exact = np.ascontiguousarray(grey[:224, :224])
    for number, pixels in enumerate(
        (grey, rgb, grey[:, :100].copy(), exact, np.kron(grey, np.ones((5, 7), "uint8")))
    ):
        path = tmp_path / f"{number}.jpeg"
        path.write_bytes(encoded(pixels, "JPEG", quality=90))
        assert np.array_equal(read_picture(path).pixels, by_fastai(path))
        assert np.array_equal(read_picture(path).pixels, by_pillow(path.read_bytes()))


@pytest.mark.shared
def test_real_radiographs_are_bit_for_bit_what_fastai_sees(shared: Path) -> None:
    files = sorted((shared / "chest_xray_original").rglob("*.jpeg"))
    assert files
    for path in files[:: max(1, len(files) // 24)]:
        assert np.array_equal(read_picture(path).pixels, by_fastai(path))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_of_bytes_are_what_pillow_sees(form: str, grey: np.ndarray, rgb: np.ndarray) -> None:
    for pixels in (grey, rgb):
        content = encoded(pixels, form)
        assert np.array_equal(decode(content), by_pillow(content))
        assert np.array_equal(decode(content), decode(encoded(pixels, "PNG")))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_png_of_every_kind_is_read(mode: str, rgb: np.ndarray) -> None:
    content = encoded(Image.fromarray(rgb).convert(mode), "PNG")
    assert np.array_equal(decode(content), by_pillow(content))


def test_a_transparent_palette_is_read(grey: np.ndarray) -> None:
    content = encoded(Image.fromarray(grey).convert("P"), "PNG", transparency=bytes(range(256)))
    assert np.array_equal(decode(content), decode(encoded(grey, "PNG")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_tiff_for_print_is_read(mode: str, rgb: np.ndarray) -> None:
    content = encoded(Image.fromarray(rgb).convert(mode), "TIFF")
    assert np.array_equal(decode(content), by_pillow(content))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range(form: str, grey: np.ndarray) -> None:
    for value, expected in ((0, 0), (257, 1), (32768, 128), (65535, 255), (4095, 16)):
        pixels = np.full((448, 448), value, np.uint16)
        # The values reach beyond 14 bits, in one corner.
        pixels[-10:, -10:] = 65535
        assert (decode(encoded(pixels, form))[:200] == expected).all()
    deep = decode(encoded(grey.astype(np.uint16) * 257, form)).astype(int)
    assert np.abs(deep - decode(encoded(grey, form))).max() <= 1
    # Sixteen bits are rounded to eight once, and not at each step.
    reference = Image.fromarray(grey.astype(np.float32)).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.abs(deep[:, :, 0] - np.asarray(reference)).max() <= 0.51


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sixteen_bits_that_hold_fewer_are_scaled_by_those(form: str, bits: int, scene: np.ndarray) -> None:
    deep = (scene.astype(np.uint32) * 65535 // int(scene.max())).astype(np.uint16)
    whole, held = decode(encoded(deep, form)), decode(encoded(deep >> (16 - bits), form))
    assert np.abs(whole.astype(int) - held).max() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_all_sixteen_bits_beside_alpha_in_a_png_are_used(scene: np.ndarray, orientation: int) -> None:
    # 10 bits, of which the high byte of each value holds 2.
    stored = scene >> 2
    expected = decode(encoded(stored, "PNG"))
    noise = np.random.default_rng(0).integers(0, 65536, scene.shape, np.uint16)
    if orientation == 6:
        stored, noise = np.rot90(stored), np.rot90(noise)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = deep_png(stored, noise, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    assert np.array_equal(decode(content), expected)


def deep_png(grey: np.ndarray, alpha: np.ndarray, exif: bytes) -> bytes:
    """Return 16-bit greyscale with alpha, which Pillow does not write (PNG, third edition, 11.2.1)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    plain = np.stack([grey, alpha], axis=2).astype(">u2").view(np.uint8).reshape(len(grey), -1)
    # Every other row is stored as differences from the row above (filter 2).
    differences = plain - np.concatenate([np.zeros_like(plain[:1]), plain[:-1]])
    lines = [
        b"\2" + differences[y].tobytes() if y % 2 else b"\0" + plain[y].tobytes() for y in range(len(grey))
    ]
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"eXIf", exif), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def test_a_damaged_png_with_deep_alpha_is_corrupt(scene: np.ndarray) -> None:
    content = deep_png(scene, scene, Image.Exif().tobytes().removeprefix(b"Exif\0\0"))
    decode(content)
    at = content.index(b"IDAT") + 100
    for damaged in (
        content[: len(content) // 2],
        content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :],
        content[:29] + b"\0\0\0\0" + content[33:],
    ):
        with pytest.raises(CorruptImage):
            decode(damaged)


def test_a_whole_bitmap_of_a_kind_that_is_not_read_is_unsupported(grey: np.ndarray) -> None:
    content = bytearray(encoded(grey, "BMP"))
    struct.pack_into("<I", content, 30, 4)  # compressed as JPEG
    with pytest.raises(UnsupportedPixels) as caught:
        decode(bytes(content))
    assert "BMP" in caught.value.detail


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("deep", [False, True])
def test_white_is_white_in_a_tiff_whose_least_value_is_white(
    compression: str, deep: bool, grey: np.ndarray
) -> None:
    pixels = grey.astype(np.uint16) * 257 if deep else grey
    white = 65535 if deep else 255
    upright = encoded(pixels, "TIFF", compression=compression)
    # Write inverted pixels, then set PhotometricInterpretation (tag 262) to WhiteIsZero (0).
    plain = encoded(white - pixels, "TIFF", compression=compression)
    entry = struct.pack("<HHI", 262, 3, 1)
    at = plain.index(entry) + len(entry)
    content = plain[:at] + struct.pack("<H", 0) + plain[at + 2 :]
    assert np.abs(decode(content).astype(int) - decode(upright)).max() <= 1


def turned(image: Image.Image, orientation: int, form: str) -> bytes:
    """Encode a rotated or mirrored image, with the EXIF orientation that makes it upright."""
    stored = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }[orientation]  # fmt: skip
    for step in stored:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image, form, exif=exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(form: str, orientation: int, grey: np.ndarray) -> None:
    content = turned(Image.fromarray(grey), orientation, form)
    assert ImageOps.exif_transpose(Image.open(BytesIO(content))).size == (256, 300)
    difference = decode(content).astype(int) - decode(encoded(grey, form))
    # The blocks of a JPEG lie in other places of a rotated image; lossless formats are equal.
    assert np.abs(difference).mean() < (2 if form == "JPEG" else 1e-9)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_of_sixteen_bits_comes_out_upright(
    form: str, orientation: int, scene: np.ndarray
) -> None:
    content = turned(Image.fromarray(scene), orientation, form)
    assert np.abs(decode(content).astype(int) - decode(encoded(scene, form))).max() <= 1


def test_several_pages_or_an_animation_are_several_frames(grey: np.ndarray) -> None:
    pages = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    for form in ("TIFF", "PNG"):
        with pytest.raises(MultiFrame):
            decode(encoded(pages[0], form, save_all=True, append_images=pages[1:]))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_known_range_are_unsupported(dtype: type, grey: np.ndarray) -> None:
    with pytest.raises(UnsupportedPixels):
        decode(encoded(grey.astype(dtype), "TIFF"))


def test_cielab_is_unsupported() -> None:
    with pytest.raises(UnsupportedPixels):
        decode(encoded(Image.frombytes("LAB", (64, 64), bytes(64 * 64 * 3)), "TIFF"))


def test_a_side_under_64_pixels_is_too_small() -> None:
    for shape in ((63, 200), (200, 63)):
        with pytest.raises(TooFewPixels):
            decode(encoded(np.zeros(shape, np.uint8), "PNG"))
    decode(encoded(np.zeros((64, 64), np.uint8), "PNG"))


def test_the_limit_on_pixels_is_ours_and_not_pillows(
    grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(grey, "PNG")
    with pytest.raises(TooManyPixels):
        decode(content, Limits(max_pixels=grey.size - 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(decode(content, Limits(max_pixels=grey.size)), decode(content))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_corrupt(form: str, share: float, grey: np.ndarray) -> None:
    content = encoded(grey, form)
    with pytest.raises(CorruptImage):
        decode(content[: int(len(content) * share)])


def test_a_png_with_a_wrong_checksum_is_corrupt(grey: np.ndarray) -> None:
    content = encoded(grey, "PNG")
    at = content.index(b"IDAT") + 100
    with pytest.raises(CorruptImage):
        decode(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
