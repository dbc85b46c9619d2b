"""Reading labelled images into memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

import training.data.pictures as module
from training.data.labelled import LabelledImage
from training.data.patients import Group, ToldBy
from training.data.pictures import read_pictures
from worker.decoding.pool import DecoderPool
from worker.settings import WorkerSettings


def test_what_a_header_says_is_read_from_the_bytes_that_are_decoded(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"dicom": next((phantoms / "dicom").rglob("IM0001")), "png": next((phantoms / "png").iterdir())}
    images = []
    for name, file in kinds.items():
        (tmp_path / name).write_bytes(file.read_bytes())
        images.append(LabelledImage(path=tmp_path / name, label="NORMAL", group=Group(name, ToldBy.NOTHING)))
    real = module.read_bytes

    def once(path: Path, *rest: object) -> object:
        content = real(path, *rest)  # type: ignore[arg-type]
        path.unlink()
        return content

    monkeypatch.setattr(module, "read_bytes", once)
    with DecoderPool(WorkerSettings.read()) as decoders:
        pictures = read_pictures(images, decoders)
    assert [attributes.get("size") for attributes in pictures.attributes] == ["1 to 2 megapixels"] * 2
    assert [(image.group.key.split("-")[0], image.group.told_by) for image in pictures.images] == [
        ("patient PHANTOM", "header"), ("png", "nothing"),
    ]  # fmt: skip


def test_the_bytes_of_files_are_not_kept(labelled: Path, tmp_path: Path) -> None:
    content = next((labelled / "NORMAL").iterdir()).read_bytes()
    images = []
    for number in range(40):
        # Bytes after the picture are part of the file.
        (tmp_path / f"{number}.png").write_bytes(content + bytes(4 << 20))
        images.append(
            LabelledImage(
                path=tmp_path / f"{number}.png", label="NORMAL", group=Group(str(number), ToldBy.NOTHING)
            )
        )
    with DecoderPool(WorkerSettings(decode_threads=2)) as decoders:
        tracemalloc.start()
        pictures = read_pictures(images, decoders)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(pictures) == 40
    # Two threads, each with a file and with the message that carries it.
    assert peak < 60 << 20
