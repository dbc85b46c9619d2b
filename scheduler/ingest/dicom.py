"""The identifiers in a DICOM header. Pixels and everything else are the worker's business."""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from db.problems import CorruptImage, FileUnreadable, FileVanished
from scheduler.ingest.pseudonym import pseudonym
from worker.quiet import silence_libraries

if TYPE_CHECKING:
    from pydicom import Dataset

#: Media Storage Directory Storage (PS3.4 B.5): a DICOMDIR, an index of files and no image.
DICOMDIR = "1.2.840.10008.1.3.10"

#: The longest unique identifier (PS3.5 section 9.1).
UID_LENGTH = 64

#: A DICOM file begins with 128 free bytes and these four (PS3.10 section 7.1).
PREAMBLE, MAGIC = 128, b"DICM"

#: Bytes that hold the identifiers, which come before anything large.
_HEAD_BYTES = 1 << 20

_WANTED = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a DICOM file says it is; None for what it does not say."""

    sop_class: str | None
    study_uid: str | None
    series_uid: str | None
    instance_uid: str | None
    patient_key: str | None


def read_identity(file: Path | BinaryIO) -> Identity:
    """Read the identifiers of a DICOM file.

    SOP Instance UID (0008,0018), Study and Series Instance UID (0020,000D and 000E), and Patient ID
    (0010,0020) as a pseudonym. Raises FileVanished, FileUnreadable, CorruptImage, SiteKeyUnusable.
    """
    from pydicom import dcmread

    # After the import, which sets the level of pydicom's logger.
    silence_libraries()
    try:
        header = _deflated(file)
        if header is None:
            header = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_WANTED)
        media = header.file_meta.get("MediaStorageSOPClassUID") if hasattr(header, "file_meta") else None
        found = {name: header.get(name) for name in _WANTED}
        patient = str(found["PatientID"] or "")
    except FileNotFoundError:
        raise FileVanished from None
    except OSError:
        raise FileUnreadable from None
    except Exception:
        # pydicom raises whatever a damaged header leads its parser into, and quotes what it holds.
        raise CorruptImage from None
    return Identity(
        sop_class=_uid(media),
        study_uid=_uid(found["StudyInstanceUID"]),
        series_uid=_uid(found["SeriesInstanceUID"]),
        instance_uid=_uid(found["SOPInstanceUID"]),
        patient_key=pseudonym(patient) if patient else None,
    )


def _deflated(file: Path | BinaryIO) -> Dataset | None:
    """Return the beginning of a deflated file's header (PS3.5 A.5), None for any other file.

    pydicom inflates all of it first, and a few megabytes can hold what no memory does.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        stream.seek(0)
        if stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC:
            meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(_HEAD_BYTES), _HEAD_BYTES)
                header = read_dataset(BytesIO(head), False, True, stop_when=_is_past_identity)
                header.file_meta = FileMetaDataset(meta)
                return header
        stream.seek(0)
    return None


def _is_past_identity(tag: int, vr: str | None, length: int) -> bool:
    return tag > 0x0020_000E


def _uid(value: object) -> str | None:
    """Return a unique identifier, or None for one that is missing or that no column could hold."""
    text = str(value).strip("\0 ") if value else ""
    return text if 0 < len(text) <= UID_LENGTH and text.isascii() and text.isprintable() else None
