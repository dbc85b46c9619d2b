"""The gate for DICOM images: which ones are screened, and why others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.data import get_testdata_file

from db.jobs.problems import (
    ColourImage,
    CorruptImage,
    ForProcessing,
    ImageProblem,
    LateralView,
    MultiFrame,
    NoPixels,
    NotAnImage,
    NotChest,
    NotRadiograph,
    TooFewPixels,
    UnsupportedPixels,
)
from tests.pictures import decode

Send = Callable[..., None]


@pytest.fixture
def send(scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]) -> Send:
    """Decode a radiograph with changed elements; `None` removes an element."""

    def sent(**elements: Any) -> None:
        dataset = make_dicom(scene)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        decode(dicom_bytes(dataset))

    return sent


def bundled(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of pydicom, when it writes these
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"Modality": "DX"},
        {"Modality": "RG"},
        {"Modality": "OT"},
        {"Modality": ""},
        {"Modality": None},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "chest "},
        {"BodyPartExamined": "PORT CHEST"},
        {"BodyPartExamined": "CHEST_TO_PELVIS"},
        {"BodyPartExamined": "LUNG"},
        {"BodyPartExamined": "THORAX"},
        {"ViewPosition": "PA"},
        {"ViewPosition": "AP"},
        {"ViewPosition": "LLD"},
        {"ViewPosition": "LAT DECUB"},
        {"ViewPosition": "LATERALITY"},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"NumberOfFrames": 1},
        {"NumberOfFrames": ""},
    ],
    ids=str,
)
def test_a_frontal_chest_radiograph_is_screened_whatever_its_header_leaves_out(
    send: Send, elements: dict[str, str]
) -> None:
    send(**elements)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of pydicom, when it writes these
@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({"Modality": "CT"}, NotRadiograph),
        ({"Modality": "MG"}, NotRadiograph),
        ({"Modality": "mr "}, NotRadiograph),
        ({"BodyPartExamined": "HAND"}, NotChest),
        ({"BodyPartExamined": "ABDOMEN"}, NotChest),
        ({"BodyPartExamined": "TSPINE"}, NotChest),
        ({"BodyPartExamined": "RIBS"}, NotChest),
        ({"ViewPosition": "LL"}, LateralView),
        ({"ViewPosition": "RL"}, LateralView),
        ({"ViewPosition": "lateral"}, LateralView),
        ({"ViewPosition": "L-LAT"}, LateralView),
        ({"ViewPosition": "RLAT"}, LateralView),
        ({"ViewPosition": "LEFT LATERAL"}, LateralView),
        ({"PresentationIntentType": "FOR PROCESSING"}, ForProcessing),
        ({"NumberOfFrames": 2}, MultiFrame),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ColourImage),
        ({"PixelData": None}, NoPixels),
        ({"Rows": None}, NoPixels),
        ({"PhotometricInterpretation": "CMYK"}, UnsupportedPixels),
        ({"HighBit": 15}, UnsupportedPixels),
        ({"BitsStored": 17, "HighBit": 16}, CorruptImage),
        ({"BitsAllocated": 64}, UnsupportedPixels),
        ({"Rows": 63}, TooFewPixels),
    ],
    ids=str,
)
def test_an_image_that_is_not_screened_has_the_reason(
    send: Send, elements: dict[str, str], problem: type[ImageProblem]
) -> None:
    with pytest.raises(problem) as caught:
        send(**elements)
    assert type(caught.value) is problem


def view(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


@pytest.mark.parametrize(
    ("value", "meaning", "lateral"),
    [
        ("399067008", "lateral", True),
        ("399173006", "ohne Namen", True),
        ("R-10232", "right lateral", True),
        ("99LOCAL", "Left Lateral", True),
        ("272479007", "postero-anterior", False),
        ("399348003", "antero-posterior", False),
        ("99LOCAL", "lateral decubitus", False),
        ("399368009", "medio-lateral oblique", False),
    ],
)
def test_a_view_code_tells_a_lateral_view(send: Send, value: str, meaning: str, lateral: bool) -> None:
    elements = {"ViewCodeSequence": Sequence([view(value, meaning)])}
    if lateral:
        with pytest.raises(LateralView):
            send(**elements)
    else:
        send(**elements)


def test_body_parts_in_other_alphabets_are_read_without_accents() -> None:
    from worker.gate.steps import check_header

    header = Dataset()
    header.Rows = header.Columns = 100
    header.PixelData = b"\0\0"
    header.add_new("BodyPartExamined", "LO", "Tórax")
    check_header(header)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("CT_small.dcm", NotRadiograph),
        ("MR_small_RLE.dcm", NotRadiograph),
        ("rtplan.dcm", NoPixels),
        ("test-SR.dcm", NoPixels),
        ("waveform_ecg.dcm", NoPixels),
        ("DICOMDIR", NoPixels),
        ("ExplVR_BigEndNoMeta.dcm", NoPixels),
        ("SC_rgb_rle_2frame.dcm", MultiFrame),
        ("SC_rgb_rle_16bit.dcm", ColourImage),
        ("SC_ybr_full_422_uncompressed.dcm", ColourImage),
        ("77654033/CR1/6154", NotChest),
        ("test1.json", NotAnImage),
        ("zipMR.gz", NotAnImage),
    ],
)
def test_sample_files_of_other_kinds_are_refused_with_the_reason(
    name: str, problem: type[ImageProblem]
) -> None:
    with pytest.raises(problem):
        decode(bundled(name))


def test_a_grey_image_saved_as_rgb_is_screened_as_grey(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    grey = (scene >> 4).astype(np.uint8)
    reference = decode(dicom_bytes(make_dicom(grey, bits=8)))
    rgb = np.stack([grey] * 3, axis=2)
    assert np.array_equal(decode(dicom_bytes(make_dicom(rgb, bits=8))), reference)
    # A coloured marker on less than 1 % of the pixels is allowed, and so are differences by rounding.
    marked = rgb.copy()
    marked[:20, :20] = (255, 255, 0)
    marked[100:, :, 1] -= marked[100:, :, 1] // 100
    decode(dicom_bytes(make_dicom(marked, bits=8)))
    marked[:60, :60] = (255, 255, 0)
    with pytest.raises(ColourImage):
        decode(dicom_bytes(make_dicom(marked, bits=8)))


def test_a_grey_image_in_ybr_is_screened_as_grey(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    grey = (scene >> 4).astype(np.uint8)
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
    shown = decode(dicom_bytes(make_dicom(ybr, bits=8, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(shown.astype(int) - decode(dicom_bytes(make_dicom(grey, bits=8)))).max() <= 1
