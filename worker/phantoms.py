"""Phantom chest X-rays: the outline of a chest with no anatomy, for the demo and for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

#: Height and width of a phantom in pixels, about half of what a detector gives.
_SHAPE = (1120, 960)
#: Bits of a DICOM phantom, as of most detectors.
_BITS = 12

#: Computed Radiography and Digital X-Ray (For Presentation) Image Storage (PS3.4 B.5).
_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX = "1.2.840.10008.5.1.4.1.1.1.1"


def draw_phantom(seed: int, shape: tuple[int, int] = _SHAPE) -> NDArray[np.float32]:
    """Return a phantom as float32 (height, width) in [0, 1], bones bright; the same for the same seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    x = x + np.float32(random.normal(0, 0.03))
    image = 0.75 * _blob(x, y, 0, 0.1, 0.95, 1.15)
    for side in (-1, 1):
        image -= 0.5 * _blob(x, y, side * 0.42, -0.05, random.uniform(0.26, 0.32), random.uniform(0.6, 0.7))
    image += 0.35 * _blob(x, y, 0, 0, 0.09, 2.0)
    image += 0.3 * _blob(x, y, 0.14, 0.3, random.uniform(0.25, 0.35), 0.3)
    image += 0.05 * np.sin(22 * (y + 0.35 * x**2)) * (np.abs(x) > 0.12)
    for _ in range(random.integers(0, 4)):
        image += random.uniform(0.05, 0.2) * _blob(
            x, y, random.choice([-1, 1]) * 0.42, random.uniform(-0.3, 0.5), 0.12, 0.12
        )
    noisy = image + random.normal(0, 0.02, shape).astype(np.float32)
    return np.asarray(np.clip(noisy, 0, 1), dtype=np.float32)


def _blob(
    x: NDArray[np.float32], y: NDArray[np.float32], left: float, top: float, width: float, height: float
) -> NDArray[np.float32]:
    """Return an ellipse with a soft edge, 1 inside and 0 outside."""
    distance = ((x - left) / width) ** 2 + ((y - top) / height) ** 2
    return np.asarray(1 / (1 + np.exp(np.clip(12 * (distance - 1), -30, 30))), dtype=np.float32)


def write_phantoms(folder: Path, count: int) -> list[Path]:
    """Write phantoms as JPEG, 8 and 16-bit PNG, DICOM CR (MONOCHROME1) and DX, in turn; return the files.

    DICOM files lie in a folder per study and have no extension, like files from an archive.
    """
    writers = (_write_jpeg, _write_png, _write_cr, _write_png16, _write_dx)
    return [writers[seed % len(writers)](folder, seed) for seed in range(count)]


def _path(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _bytes(seed: int) -> NDArray[np.uint8]:
    return np.round(draw_phantom(seed) * 255).astype(np.uint8)


def _write_jpeg(folder: Path, seed: int) -> Path:
    path = _path(folder, f"jpeg/phantom-{seed:04}.jpeg")
    Image.fromarray(_bytes(seed)).save(path, quality=92)
    return path


def _write_png(folder: Path, seed: int) -> Path:
    path = _path(folder, f"png/phantom-{seed:04}.png")
    Image.fromarray(_bytes(seed)).save(path)
    return path


def _write_png16(folder: Path, seed: int) -> Path:
    path = _path(folder, f"png/phantom-{seed:04}-16bit.png")
    Image.fromarray(np.round(draw_phantom(seed) * 65535).astype(np.uint16)).save(path)
    return path


def _write_cr(folder: Path, seed: int) -> Path:
    """Write a CR image whose low values are bright (MONOCHROME1), with a window."""
    path = _path(folder, f"dicom/study-{seed:04}/IM0001")
    dataset = _dataset(seed, _CR, "CR")
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (_BITS - 1), 2**_BITS
    _save(dataset, 1 - draw_phantom(seed), path)
    return path


def _write_dx(folder: Path, seed: int) -> Path:
    path = _path(folder, f"dicom/study-{seed:04}/IM0001")
    dataset = _dataset(seed, _DX, "DX")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PresentationLUTShape = "IDENTITY"
    _save(dataset, draw_phantom(seed), path)
    return path


def _dataset(seed: int, sop_class: str, modality: str) -> FileDataset:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = UID(sop_class)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[f"phantom {seed} {keyword}"]))
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID = f"PHANTOM-{seed:04}"
    dataset.PatientName = "Phantom"
    dataset.Modality = modality
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    return dataset


def _save(dataset: FileDataset, image: NDArray[np.float32], path: Path) -> None:
    pixels = np.round(image * (2**_BITS - 1)).astype(np.uint16)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, _BITS, _BITS - 1
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
