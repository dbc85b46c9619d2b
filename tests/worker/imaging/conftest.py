"""Images of a scene: `scene` (12 bits), `make_dicom`, `dicom_bytes`, `by_gdcm`, `shade`."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.pictures import decode


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """Draw noisy slopes of 12 bits that no rotation or reflection maps to themselves."""
    y, x = np.mgrid[0:300, 0:256]
    noise = np.random.default_rng(0).integers(0, 200, (300, 256))
    return np.asarray(x * 10 + y * 4 + noise, dtype=np.uint16)


@pytest.fixture(scope="session")
def make_dicom() -> Callable[..., Dataset]:
    def make(pixels: np.ndarray, bits: int = 12, **elements: Any) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["pneumoscreen test"])
        dataset.Modality = "CR"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        dataset.BitsAllocated, dataset.BitsStored = 8 * pixels.itemsize, bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    return make


@pytest.fixture(scope="session")
def dicom_bytes() -> Callable[..., bytes]:
    def write(dataset: Dataset, syntax: UID | None = None) -> bytes:
        buffer = BytesIO()
        if syntax is not None:
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return write


@pytest.fixture
def by_gdcm(tmp_path: Path) -> Callable[[bytes, str], bytes]:
    """Encode with GDCM, which writes syntaxes that pydicom does not."""

    def encode(content: bytes, syntax: str) -> bytes:
        import gdcm

        (tmp_path / "plain.dcm").write_bytes(content)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(tmp_path / "plain.dcm"))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(tmp_path / "encoded.dcm"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return (tmp_path / "encoded.dcm").read_bytes()

    return encode


@pytest.fixture(scope="session")
def shade(make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]) -> Callable[..., int]:
    """Return how bright a stored value is displayed, from 0 to 255."""

    def shown(value: int, dtype: str = "uint16", **elements: Any) -> int:
        dataset = make_dicom(np.full((64, 64), value, dtype=dtype), **elements)
        pixels = decode(dicom_bytes(dataset))
        assert pixels.min() == pixels.max()
        return int(pixels[0, 0, 0])

    return shown
