"""Identifiers in malicious headers."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from scheduler.ingest.dicom import read_identity
from scheduler.ingest.sources.folder import FolderSource
from scheduler.ingest.walk import Walk


def deflated(trailer: bytes = b"") -> bytes:
    """Return a deflated DICOM file; the trailer is deflated after its header."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.3",
        "1.2",
    )
    dataset.PatientID = "four"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    whole = zlib.decompress(content[deflated_from(content) :], -zlib.MAX_WBITS)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (
        content[: deflated_from(content)] + packer.compress(whole) + packer.compress(trailer) + packer.flush()
    )


def deflated_from(content: bytes) -> int:
    """Return the offset of the deflated part: it follows group 0002, whose first element is its length."""
    return 144 + int.from_bytes(content[140:144], "little")


def test_a_deflated_header_is_read() -> None:
    identity = read_identity(BytesIO(deflated()))
    assert (identity.instance_uid, identity.study_uid) == ("1.2.3", "1.2")
    assert identity.patient_key is not None


def test_a_file_that_inflates_to_a_gigabyte_takes_no_memory_at_ingest(tmp_path: Path) -> None:
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + (2**30).to_bytes(4, "little")
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(deflated(pixels + bytes(2**30)))
    assert bomb.stat().st_size < 2**21
    code = (
        "import sys, pathlib; from scheduler.ingest.dicom import read_identity;"
        "print(read_identity(pathlib.Path(sys.argv[1])).instance_uid)"
    )
    limit = 2**29
    done = subprocess.run(
        [sys.executable, "-c", code, str(bomb)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.stdout == "1.2.3\n", done.stderr


@pytest.mark.parametrize("end", [200, 300, 330])
def test_a_deflated_header_that_is_cut_off_is_a_problem_or_an_identity(end: int) -> None:
    from db.jobs.problems import ImageProblem

    try:
        read_identity(BytesIO(deflated()[:end]))
    except ImageProblem as problem:
        assert problem.code == "corrupt-image"


def element(tag: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    """Return an element in explicit little endian; `length` may be false."""
    length = len(value) if length is None else length
    form = "<HH2sHI" if vr in (b"UN", b"OB", b"SQ") else "<HH2sH"
    rest = (0, length) if form.endswith("I") else (length,)
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, *rest) + value


BEGINNING = bytes(128) + b"DICM" + element(0x0002_0010, b"UI", b"1.2.840.10008.1.2.1\0")
SOP, STUDY = element(0x0008_0018, b"UI", b"1.2.3\0"), element(0x0020_000D, b"UI", b"1.2\0")
LARGE, UNDEFINED = 100 << 20, 0xFFFF_FFFF
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)


@pytest.mark.parametrize(
    "header",
    [
        BEGINNING + SOP + element(0x0010_0020, b"UN", length=LARGE),
        BEGINNING + element(0x0008_0005, b"UN", length=LARGE),
        BEGINNING + element(0x0002_0102, b"OB", length=LARGE),
        BEGINNING + element(0x0008_1115, b"SQ", ITEM + element(0x0009_1001, b"OB", length=LARGE), UNDEFINED),
        BEGINNING + element(0x0009_1001, b"OB", length=UNDEFINED),
    ],
    ids=["identifier", "character set", "meta information", "in a sequence", "without a length"],
)
def test_a_header_that_says_it_is_huge_takes_no_memory_at_ingest(tmp_path: Path, header: bytes) -> None:
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + LARGE)
    tracemalloc.start()
    (image,) = Walk(FolderSource(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.problem == "corrupt-image"
    assert peak < 10 << 20


def test_large_private_elements_before_the_identifiers_are_passed_over(tmp_path: Path) -> None:
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(BEGINNING + SOP + element(0x0009_1001, b"OB", length=LARGE))
        file.seek(LARGE, 1)
        file.write(element(0x0010_0020, b"LO", b"four") + STUDY)
    (image,) = Walk(FolderSource(tmp_path))
    assert (image.problem, image.instance_uid, image.study_uid) == (None, "1.2.3", "1.2")
    assert image.patient_key


@pytest.mark.parametrize("uid", [b"DOE^JANE", b"1.2.x", b"1.2 3", b"1.2\\1.3", b"1" * 66, b"", b"\xff1"])
def test_text_that_is_not_a_uid_is_not_stored_as_one(uid: bytes) -> None:
    odd = element(0x0008_0018, b"UI", uid + b"\0" * (len(uid) % 2))
    identity = read_identity(BytesIO(BEGINNING + odd + STUDY))
    assert (identity.instance_uid, identity.study_uid) == (None, "1.2")
