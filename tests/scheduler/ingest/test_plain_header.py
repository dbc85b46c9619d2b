"""The quick reading of plain headers: what pydicom reads, or nothing."""

from __future__ import annotations

import random
from io import BytesIO

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scheduler.ingest.plain_header import plain_texts
from worker.files.dicom_header import read_elements

WANTED = {
    "MediaStorageSOPClassUID": (0x0002_0002, b"UI"),
    "SOPInstanceUID": (0x0008_0018, b"UI"),
    "AccessionNumber": (0x0008_0050, b"SH"),
    "PatientID": (0x0010_0020, b"LO"),
    "StudyInstanceUID": (0x0020_000D, b"UI"),
    "SeriesInstanceUID": (0x0020_000E, b"UI"),
}


def header(syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """Return a DICOM file without pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPInstanceUID": "1.2.3",
        "AccessionNumber": "A-1",
        "Modality": "CR",
        "PatientName": "Müller^Änne",
        "PatientID": "47 11",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.2.3.4",
        "Rows": 8,
    }
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def quickly(content: bytes) -> dict[str, str] | None:
    texts = plain_texts(BytesIO(content), dict(WANTED.values()))
    return None if texts is None else {name: texts.get(tag, "") for name, (tag, _) in WANTED.items()}


def by_pydicom(content: bytes) -> dict[str, str]:
    found = read_elements(BytesIO(content), list(WANTED)[1:])
    values = {"MediaStorageSOPClassUID": found.file_meta.get("MediaStorageSOPClassUID")}
    values |= {name: found.get(name) for name in list(WANTED)[1:]}
    return {name: str(value or "").rstrip("\0 ") for name, value in values.items()}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PatientID": None, "AccessionNumber": None},
        {"PatientID": "", "StudyInstanceUID": None},
        {"PatientID": " 4711 "},
        {"SpecificCharacterSet": "ISO_IR 192"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "A^B"},
    ],
)
def test_a_plain_header_is_read_without_pydicom(syntax: str, elements: dict[str, object]) -> None:
    content = header(syntax, **elements)
    assert quickly(content) == by_pydicom(content)


@pytest.mark.parametrize(
    "content",
    [
        header(ExplicitVRBigEndian),
        header(PatientID="Jürgen"),
        header(PatientID="a~"),
        header().replace(b"ISO_IR 100", b"UTF-7     "),
        header(PatientID="x" * 300),
        header(PatientID=["1", "2"]),
        header(ReferencedImageSequence=Sequence([Dataset()]), PixelData=None)[132:],
        header(StudyDescription="x" * 10_000),
        header()[:300],
        b"",
    ],
)
def test_pydicom_reads_what_is_not_plain(content: bytes) -> None:
    assert quickly(content) is None


def test_a_damaged_header_is_read_as_pydicom_reads_it_or_not_at_all() -> None:
    draw = random.Random(3)
    read = 0
    for _ in range(3000):
        content = bytearray(header(draw.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian])))
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(132, len(content))] = draw.randrange(256)
        found = quickly(bytes(content))
        if found is not None:
            read += 1
            assert found == by_pydicom(bytes(content))
    assert read > 500
