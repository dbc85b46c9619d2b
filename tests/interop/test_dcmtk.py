"""Agreement with OFFIS' dcmtk: files that it encodes, and pictures that it displays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset

from tests.pictures import decode, read_picture
from worker.imaging.pixels.layout import read_layout
from worker.imaging.pixels.stored import stored_values
from worker.imaging.presentation.display import display_values

needs = pytest.mark.skipif(
    shutil.which("dcmj2pnm") is None, reason="dcmtk is not installed; tests/worker/imaging does not need it"
)


def write(path: Path, **elements: Any) -> Path:
    """Write a 12-bit radiograph."""
    y, x = np.mgrid[0:300, 0:256]
    pixels = (x * 10 + y * 4 + np.random.default_rng(0).integers(0, 40, (300, 256))).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4.5"
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut() -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [2000, 500, 12])
    item.add_new("LUTData", "US", [round(4095 * (entry / 1999) ** 2) for entry in range(2000)])
    return item


WINDOW = {"WindowCenter": 1500, "WindowWidth": 2000}


@needs
@pytest.mark.parametrize(
    ("elements", "options"),
    [
        ({}, []),
        (WINDOW, ["+Wi", "1"]),
        ({**WINDOW, "VOILUTFunction": "SIGMOID"}, ["+Wi", "1"]),
        ({**WINDOW, "PhotometricInterpretation": "MONOCHROME1"}, ["+Wi", "1"]),
        ({**WINDOW, "RescaleSlope": 2, "RescaleIntercept": -1000}, ["+Wi", "1"]),
        ({"VOILUTSequence": [lut()]}, ["+Wl", "1"]),
        ({"VOILUTSequence": [lut()], "PhotometricInterpretation": "MONOCHROME1"}, ["+Wl", "1"]),
        ({"ModalityLUTSequence": [lut()]}, []),
    ],
    ids=str,
)
def test_a_radiograph_looks_as_dcmtk_shows_it(
    tmp_path: Path, elements: dict[str, Any], options: list[str]
) -> None:
    path = write(tmp_path / "a.dcm", **elements)
    command = ["dcmj2pnm", "--write-raw-pnm", *options, str(path), str(tmp_path / "a.pgm")]
    subprocess.run(command, check=True, capture_output=True)
    theirs = np.asarray(Image.open(tmp_path / "a.pgm").convert("L")).astype(float)
    dataset = dcmread(path)
    ours = display_values(stored_values(dataset, read_layout(dataset)), dataset) * 255
    # dcmtk truncates to 8 bits and we round: the difference is up to one of its 256 levels.
    assert np.abs(ours - theirs).max() < 1.01


@needs
@pytest.mark.parametrize(
    ("command", "syntax", "tolerance"),
    [
        (["dcmcjpeg", "--encode-lossless"], uid.JPEGLossless, 0),
        (["dcmcjpeg", "--encode-lossless-sv1"], uid.JPEGLosslessSV1, 0),
        (["dcmcjpeg", "--encode-extended"], uid.JPEGExtended12Bit, 2),
        (["dcmcjpeg", "--encode-baseline"], uid.JPEGBaseline8Bit, 3),
        (["dcmcjpls", "--encode-lossless"], uid.JPEGLSLossless, 0),
        (["dcmcjpls", "--encode-nearlossless"], uid.JPEGLSNearLossless, 1),
        (["dcmcrle"], uid.RLELossless, 0),
        (["dcmconv", "--write-xfer-big"], uid.ExplicitVRBigEndian, 0),
        (["dcmconv", "--write-xfer-deflated"], uid.DeflatedExplicitVRLittleEndian, 0),
        (["dcmconv", "--write-xfer-implicit"], uid.ImplicitVRLittleEndian, 0),
        (["dcmconv", "--write-dataset", "--write-xfer-implicit"], None, 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_images_encoded_by_dcmtk_are_decoded(
    tmp_path: Path, command: list[str], syntax: str | None, tolerance: int
) -> None:
    path = write(tmp_path / "plain", ImageType=["ORIGINAL", "PRIMARY"])
    subprocess.run([*command, str(path), str(tmp_path / "encoded")], check=True, capture_output=True)
    if syntax is not None:
        assert dcmread(tmp_path / "encoded").file_meta.TransferSyntaxUID == syntax
    found = decode((tmp_path / "encoded").read_bytes()).astype(int)
    assert np.abs(found - read_picture(path).pixels).max() <= tolerance
