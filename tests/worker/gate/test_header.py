"""Which DICOM files are for us, by their headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file

from db.jobs.problems import (
    ColourImage,
    ImageProblem,
    MultiFrame,
    NoPixels,
    NotAnImage,
    NotChest,
    NotRadiograph,
)
from tests.pictures import decode
from worker.decoding.pool import DecoderPool
from worker.phantoms import write_phantoms
from worker.settings import WorkerSettings

Refused = Callable[..., str | None]


def bundled(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"NumberOfFrames": 1},
        {"NumberOfFrames": ""},
        {"BodyPartExamined": ""},
        {"ViewPosition": ""},
        {"SeriesDescription": ""},
    ],
    ids=str,
)
def test_a_radiograph_is_screened_whatever_its_header_leaves_out(
    refused: Refused, elements: dict[str, str]
) -> None:
    assert refused(**elements) is None


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, "for-processing"),
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour-image"),
        ({"PixelData": None}, "no-pixels"),
        ({"Rows": None}, "no-pixels"),
        # The first reason counts.
        ({"Modality": "CT", "NumberOfFrames": 2, "ViewPosition": "LL"}, "not-radiograph"),
        ({"BodyPartExamined": "HAND", "ViewPosition": "LL"}, "not-chest"),
    ],
    ids=str,
)
def test_an_image_that_is_not_screened_has_the_reason(
    refused: Refused, elements: dict[str, object], code: str
) -> None:
    assert refused(**elements) == code


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
        ("SC_rgb_rle_2frame.dcm", NotRadiograph),
        ("SC_rgb_rle_16bit.dcm", NotRadiograph),
        ("SC_ybr_full_422_uncompressed.dcm", NotRadiograph),
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


def capture(folder: Path) -> Dataset:
    """Make a digitised film whose header does not name the chest."""
    from pydicom import dcmread

    write_phantoms(folder, 3)
    film = dcmread(next(folder.rglob("IM0001")))
    film.Modality = "OT"
    film.BodyPartExamined = ""
    return film


def test_a_site_that_holds_chest_films_alone_has_its_captures_screened(tmp_path: Path) -> None:
    film = capture(tmp_path / "drawn")
    film.save_as(tmp_path / "film.dcm")
    content = (tmp_path / "film.dcm").read_bytes()
    with DecoderPool(WorkerSettings(decode_threads=1)) as decoders, pytest.raises(NotRadiograph):
        decoders.submit(lambda: content).result(timeout=60)
    with DecoderPool(WorkerSettings(decode_threads=1, chest_only=True)) as decoders:
        assert decoders.submit(lambda: content).result(timeout=60).pixels.shape == (224, 224, 3)


def test_colour_and_frames_are_told_of_captures_of_the_chest(tmp_path: Path) -> None:
    film = capture(tmp_path / "drawn")
    film.BodyPartExamined = "CHEST"
    for keyword, value, problem in (
        ("NumberOfFrames", 2, MultiFrame),
        ("PhotometricInterpretation", "PALETTE COLOR", ColourImage),
    ):
        setattr(film, keyword, value)
        film.save_as(tmp_path / "film.dcm")
        with pytest.raises(problem):
            decode((tmp_path / "film.dcm").read_bytes())
        delattr(film, keyword)
