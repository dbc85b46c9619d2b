"""Identifiers in headers that somebody made to do harm."""

from __future__ import annotations

import resource
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from scheduler.ingest.dicom import read_identity


def deflated(trailer: bytes = b"") -> bytes:
    """Return a deflated DICOM file; the trailer is deflated behind its header."""
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
    """Return where the deflated part begins: behind group 0002, whose length stands in its first element."""
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
    from db.problems import ImageProblem

    try:
        read_identity(BytesIO(deflated()[:end]))
    except ImageProblem as problem:
        assert problem.code == "corrupt-image"
