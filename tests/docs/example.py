"""The files of the pages' user: a study with bad files, labelled images, readings and initial weights."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom

from worker.phantoms import draw_phantom, write_phantoms

#: Labelled images of each class.
LABELLED = 40
#: Seed of the labelled images' noise.
SEED = 4


def write_study(folder: Path) -> None:
    """Write 12 phantoms, a copy of one, a lateral view, a damaged file and a text."""
    write_phantoms(folder, 12)
    original = pydicom.dcmread(folder / "dicom" / "study-0002" / "IM0001")
    copy = folder / "dicom" / "study-0002" / "IM0001-copy"
    original.save_as(copy, enforce_file_format=True)
    original.ViewPosition = "LL"
    original.SOPInstanceUID = original.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(
        entropy_srcs=["a lateral view"]
    )
    original.save_as(copy.with_name("IM0002"), enforce_file_format=True)
    (folder / "jpeg" / "phantom-0012.jpeg").write_text("This is not an image.")
    (folder / "readme.txt").write_text("Exported by the archive.")


def write_labelled(folder: Path) -> None:
    """Write two classes that any network can tell apart; no picture is nearly a copy of another one."""
    random = np.random.default_rng(SEED)
    for label, brightness in (("NORMAL", 0.0), ("PNEUMONIA", 0.35)):
        (folder / label).mkdir(parents=True)
        for number in range(LABELLED):
            coarse = PIL.Image.fromarray(random.normal(0, 0.15, (12, 12)).astype(np.float32))
            noise = np.asarray(coarse.resize((224, 224), PIL.Image.Resampling.BICUBIC))
            picture = draw_phantom(number, (224, 224)) * 0.4 + noise + 0.15 + brightness
            pixels = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / label / f"{number:02}.png")


def write_readings(file: Path, labelled: Path) -> None:
    """Write the readings of some labelled images; two readers contradict each other on one of them."""
    normal = sorted((labelled / "NORMAL").iterdir())[:4]
    pneumonia = sorted((labelled / "PNEUMONIA").iterdir())[:4]
    rows = [(path, path.parent.name, "Reader A") for path in (*normal, *pneumonia)]
    rows.append((normal[0], "PNEUMONIA", "Reader B"))
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "class", "reader", "date"))
        writer.writerows(
            (path.relative_to(file.parent), label, who, "2026-05-01") for path, label, who in rows
        )


def write_weights(folder: Path) -> None:
    """Write weights for two backbones, at random: the real ones are not part of the project."""
    import torch
    from safetensors.torch import save_file

    from worker.torchvision_pair import import_torchvision

    import_torchvision()
    from torchvision.models import alexnet, resnet18

    folder.mkdir()
    torch.manual_seed(SEED)
    for name, build in (("resnet18", resnet18), ("alexnet", alexnet)):
        save_file(build().state_dict(), folder / f"{name}-imagenet.safetensors")


def write_example(home: Path) -> None:
    """Write everything into the home of the pages' user."""
    write_study(home / "trial-7")
    write_phantoms(home / "ward-7", 6)
    write_labelled(home / "labelled")
    write_readings(home / "readings.csv", home / "labelled")
    write_weights(home / "imagenet")
