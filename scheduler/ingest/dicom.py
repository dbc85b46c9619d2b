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
from scheduler.ingest.pseudonym import pseudonym
from scheduler.settings import SchedulerSettings
from worker.files.dicom_header import read_elements

#: Media Storage Directory Storage (PS3.4 B.5): a DICOMDIR, an index of files and no image.
DICOMDIR = "1.2.840.10008.1.3.10"

_UID = re.compile(r"[0-9.]{1,64}")

_WANTED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")

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
            header = read_elements(stream, wanted)
        media = header.file_meta.get("MediaStorageSOPClassUID") if hasattr(header, "file_meta") else None
        found = {name: header.get(name) for name in _WANTED}
        patient = str(found["PatientID"] or "")
        accession = _accession(header.get("AccessionNumber"))
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


@functools.cache
def _wanted() -> tuple[str, ...]:
    """Return the keywords of the wanted elements. The setting is read once: it would slow every file down."""
    return (*_WANTED, "AccessionNumber") if SchedulerSettings.read().keep_accession else _WANTED


def _accession(value: object) -> str | None:
    """Return an Accession Number as it is given, or None if it is missing or cannot be stored."""
    text = str(value or "").strip("\0 ")
    return text if 0 < len(text) <= _LONGEST_ACCESSION and text.isprintable() and is_text(text) else None


def _uid(value: object) -> str | None:
    """Return a unique identifier, or None if it is missing or invalid (PS3.5 section 9.1)."""
    text = str(value).strip("\0 ") if value else ""
    return text if _UID.fullmatch(text) else None
