"""Pictures and files that a run makes: phantoms of 1.5 megapixels with the noise of a photograph."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tests.gpu.bench import Bench, cores
from worker.phantoms import draw_phantom, write_phantoms

#: 1.5 megapixels, as the radiographs that the shipped model was trained with.
_SHAPE = (1250, 1200)
#: Their files have about 230 kB.
_QUALITY = 85

#: Of this many files one is a 16-bit PNG, one DICOM, all others JPEG.
_ONE_OF = 100
#: In the place of the number that makes each copy of a DICOM file another instance.
_INSTANCE = "2.25.{:010}"
#: No component of a UID begins with a zero.
_FIRST_INSTANCE, _FIRST_COPY = 1_000_000_000, 2_000_000_000


def make(bench: Bench) -> None:
    """Make the pictures that are compared, and the different files of each kind."""
    sizes = bench.sizes
    write_phantoms(bench.pool / "phantoms", 5)
    # Copies of this process, which has not touched the GPU.
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pictures = pool.map(small_picture, range(sizes.compared), chunksize=4)
        np.save(bench.scratch / "pictures.npy", np.stack(pictures))
        for kind, count in [("jpeg", sizes.jpegs), *((kind, sizes.others) for kind in _kinds())]:
            folder = bench.pool / kind
            folder.mkdir(parents=True)
            pool.map(partial(_write, kind, folder), range(count))
    if "lossless" not in _kinds():
        bench.findings.note("JPEG lossless", "left out: GDCM is not installed")


def small_picture(seed: int) -> np.ndarray:
    """Return a picture uint8 (224, 224, 3): a phantom, more or less blurred or noisy.

    The shipped model takes blur for pneumonia and noise for its absence: so it is sure of some.
    """
    random = np.random.default_rng(seed)
    grey = _bytes(draw_phantom(seed, (224, 224)))
    if seed % 2:
        blur = ImageFilter.GaussianBlur(random.uniform(0, 8))
        grey = np.asarray(Image.fromarray(grey).filter(blur))
    else:
        grey = _bytes(grey / 255 + random.normal(0, random.uniform(0, 0.6), grey.shape))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _bytes(picture: np.ndarray) -> np.ndarray:
    """Return a picture in [0, 1] as uint8."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _kinds() -> list[str]:
    """Return the kinds of file besides JPEG that can be written and read here."""
    return ["png16", "jpeg2000", *(["lossless"] if find_spec("gdcm") else [])]


def _write(kind: str, folder: Path, seed: int) -> None:
    picture = draw_phantom(seed, _SHAPE)
    if kind == "jpeg":
        Image.fromarray(_bytes(picture)).save(folder / f"{seed}.jpg", quality=_QUALITY)
    elif kind == "png16":
        Image.fromarray(np.round(picture * 65535).astype(np.uint16)).save(folder / f"{seed}.png")
    else:
        _write_dicom(kind, folder / f"{seed}.dcm", np.round(picture * 4095).astype(np.uint16), seed)


def _write_dicom(kind: str, path: Path, pixels: np.ndarray, seed: int) -> None:
    """Write a DX image of 12 bits, compressed without loss."""
    from pydicom import dcmread
    from pydicom.uid import JPEG2000Lossless

    # The fifth phantom is a DX image.
    dataset = dcmread(path.parent.parent / "phantoms" / "dicom" / "study-0004" / "IM0001")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _INSTANCE.format(
        _FIRST_INSTANCE + seed
    )
    if kind == "jpeg2000":
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    if kind == "lossless":
        _compress_by_gdcm(path)


def _compress_by_gdcm(path: Path) -> None:
    """Compress a DICOM file as JPEG lossless, which pydicom does not write."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def lay_out(bench: Bench, folder: Path, count: int) -> None:
    """Fill a folder with files: most are JPEG, as links; every DICOM file is an instance of its own."""
    jpegs = itertools.cycle(sorted((bench.pool / "jpeg").iterdir()))
    pngs = itertools.cycle(sorted((bench.pool / "png16").iterdir()))
    dicoms = _instances(bench)
    folder.mkdir(parents=True)
    for number in range(count):
        # Some hundred in a folder, as archives have them.
        place = folder / f"{number // 500:04}"
        place.mkdir(exist_ok=True)
        kind = number % _ONE_OF
        if kind == 0:
            (place / f"{number:06}.dcm").write_bytes(next(dicoms))
        else:
            file = next(pngs) if kind == 1 else next(jpegs)
            os.link(file, place / f"{number:06}{file.suffix}")


def _instances(bench: Bench) -> Iterator[bytes]:
    """Yield DICOM files for ever, each with an instance UID that no other has."""
    files = [
        (file.read_bytes(), _INSTANCE.format(_FIRST_INSTANCE + int(file.stem)).encode())
        for kind in ("jpeg2000", "lossless")
        for file in sorted((bench.pool / kind).glob("*.dcm"))
    ]
    for number, (content, uid) in enumerate(itertools.cycle(files)):
        yield content.replace(uid, _INSTANCE.format(_FIRST_COPY + number).encode())
