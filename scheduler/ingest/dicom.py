"""The identifiers in a DICOM header, which are all that ingest reads of it."""

from __future__ import annotations

import functools
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from db.jobs.problems import CorruptImage, FileUnreadable, FileVanished
from db.text import is_text
from scheduler.ingest.plain_header import plain_texts
from scheduler.ingest.pseudonym import pseudonym
from scheduler.settings import SchedulerSettings
from worker.files.dicom_header import read_elements

#: Media Storage Directory Storage (PS3.4 B.5): a DICOMDIR, an index of files and no image.
DICOMDIR = "1.2.840.10008.1.3.10"

_UID = re.compile(r"[0-9.]{1,64}")

#: Tags and value representations of elements, by keyword.
_Wanted = dict[str, tuple[int, bytes]]

#: Media Storage SOP Class UID.
_MEDIA = 0x0002_0002, b"UI"
_WANTED: _Wanted = {
    "SOPInstanceUID": (0x0008_0018, b"UI"),
    "PatientID": (0x0010_0020, b"LO"),
    "StudyInstanceUID": (0x0020_000D, b"UI"),
    "SeriesInstanceUID": (0x0020_000E, b"UI"),
}
_ACCESSION: _Wanted = {"AccessionNumber": (0x0008_0050, b"SH")}

#: Longest Accession Number that is kept, in characters. The standard allows 16 (SH, PS3.5 section 6.2).
_LONGEST_ACCESSION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identifiers of a DICOM file; None for those that it does not have."""

    sop_class: str | None
    study_uid: str | None
    series_uid: str | None
    instance_uid: str | None
    patient_key: str | None
    #: None also if the installation does not keep it.
    accession: str | None = None


def read_identity(file: Path | BinaryIO) -> Identity:
    """Read the identifiers of a DICOM file.

    SOP Instance UID (0008,0018), Study and Series Instance UID (0020,000D and 000E), and Patient ID
    (0010,0020) as a pseudonym; Accession Number (0008,0050) only if `keep_accession` is on. Raises
    FileVanished, FileUnreadable, CorruptImage, SiteKeyUnusable.
    """
    wanted = _wanted()
    try:
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
            media, found = _plain(stream, wanted) or _any(stream, wanted)
        patient = found["PatientID"]
        accession = _accession(found.get("AccessionNumber"))
    except FileNotFoundError:
        raise FileVanished from None
    except OSError as error:
        # The system's errors have a number. pydicom raises OSErrors without one for a damaged header.
        raise (FileUnreadable if error.errno else CorruptImage) from None
    except Exception:
        # A damaged header may lead pydicom into any error, whose text may quote the header.
        raise CorruptImage from None
    return Identity(
        sop_class=_uid(media),
        study_uid=_uid(found["StudyInstanceUID"]),
        series_uid=_uid(found["SeriesInstanceUID"]),
        instance_uid=_uid(found["SOPInstanceUID"]),
        patient_key=pseudonym(patient) if patient else None,
        accession=accession,
    )


def _plain(stream: BinaryIO, wanted: _Wanted) -> tuple[str, dict[str, str]] | None:
    """Return the class of the medium and the wanted elements, by keyword, if the header is plain."""
    texts = plain_texts(stream, dict([_MEDIA, *wanted.values()]))
    if texts is None:
        return None
    return texts.get(_MEDIA[0], ""), {name: texts.get(tag, "") for name, (tag, _) in wanted.items()}


def _any(stream: BinaryIO, wanted: _Wanted) -> tuple[str, dict[str, str]]:
    """Return the same of any header. Raises errors of all kinds for a damaged one."""
    header = read_elements(stream, list(wanted))
    media = header.file_meta.get("MediaStorageSOPClassUID") if hasattr(header, "file_meta") else None
    return str(media or ""), {name: str(header.get(name) or "") for name in wanted}


@functools.cache
def _wanted() -> _Wanted:
    """Return the wanted elements. The setting is read once: it would slow every file down."""
    return _WANTED | _ACCESSION if SchedulerSettings.read().keep_accession else _WANTED


def _accession(value: str | None) -> str | None:
    """Return an Accession Number as it is given, or None if it is missing or cannot be stored."""
    text = (value or "").strip("\0 ")
    return text if 0 < len(text) <= _LONGEST_ACCESSION and text.isprintable() and is_text(text) else None


def _uid(value: str) -> str | None:
    """Return a unique identifier, or None if it is missing or invalid (PS3.5 section 9.1)."""
    text = value.strip("\0 ")
    return text if _UID.fullmatch(text) else None
