"""The import of labels from CSV files."""

from __future__ import annotations

import csv
import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from db.engine import Database
from db.errors import PneumoscreenError
from db.tables import LabelClass
from db.training.labels import Reading, add_readings, known_instances, labelled_files
from scheduler.ingest.pseudonym import ensure_site_key, pseudonym
from scheduler.ingest.source import SourceMissing, SourceUnreadable
from worker.files.access import read_file
from worker.files.roots import Roots
from worker.files.url import is_local, path_to_uri
from worker.settings import WorkerSettings

_DIGEST = re.compile(r"[0-9a-f]{64}")
_READER_LENGTH = 64


class LabelsUnreadable(PneumoscreenError):
    """The file is not a table of labels. It needs a header with class and one of path, digest, instance."""

    code = "labels-unreadable"


class LabelsInFolder(PneumoscreenError):
    """This is a folder, and labels are imported from a CSV file. Name the file."""

    code = "labels-in-folder"


class LabelRowsBad(PneumoscreenError):
    """Some rows cannot be used, and nothing was imported. Fix them, or leave them out with --skip-bad."""

    code = "label-rows-bad"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used; the header is row 1."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The outcome of an import of labels."""

    rows: int
    new: int
    known: int
    #: Images whose readings contradict one another, from this file or an earlier one.
    conflicting: int
    bad: list[BadRow]


def import_labels(database: Database, file: Path, *, skip_bad: bool = False) -> Imported:
    """Import the labels of a CSV file: all rows or none, or with `skip_bad` the rows that can be used.

    Raises SourceMissing, SourceUnreadable, LabelsInFolder, LabelsUnreadable, LabelRowsBad, SiteKeyMissing,
    SiteKeyDiffers, SiteKeyUnusable.
    """
    ensure_site_key(database)
    readings: list[tuple[int, Reading]] = []
    bad: list[BadRow] = []
    rows = 0
    for number, row in _rows(file):
        rows += 1
        try:
            readings.append((number, _reading(row, file)))
        except ValueError as error:
            bad.append(BadRow(number, str(error)))
    with database.read() as session:
        wanted = sorted({one.instance_uid for _, one in readings if one.instance_uid})
        unknown = set(wanted) - known_instances(session, wanted)
    bad += [
        BadRow(number, "no cohort holds the instance")
        for number, one in readings
        if one.instance_uid in unknown
    ]
    if bad and not skip_bad:
        shown = sorted(bad, key=lambda one: one.row)[:10]
        more = [f"and {len(bad) - len(shown)} more"] if len(bad) > len(shown) else []
        raise LabelRowsBad("; ".join([f"row {one.row}: {one.reason}" for one in shown] + more))
    good = [one for _, one in readings if one.instance_uid not in unknown]
    with database.write() as session:
        new = add_readings(session, good)
    with database.read() as session:
        conflicting = sum(one.contradicts for one in labelled_files(session))
    return Imported(rows=rows, new=new, known=len(good) - new, conflicting=conflicting, bad=bad)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield row numbers and rows by lower-case column name; the separator is a comma or a semicolon."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            header = text.readline()
            separator = ";" if header.count(";") > header.count(",") else ","
            names = [name.strip().strip('"').lower() for name in header.split(separator)]
            if "class" not in names or not {"path", "digest", "instance"} & set(names):
                raise LabelsUnreadable
            for number, row in enumerate(csv.DictReader(text, names, delimiter=separator), start=2):
                yield number, {name: (value or "").strip() for name, value in row.items() if name in names}
    except FileNotFoundError:
        raise SourceMissing from None
    except IsADirectoryError:
        raise LabelsInFolder from None
    except (UnicodeDecodeError, csv.Error):
        raise LabelsUnreadable from None
    except OSError:
        raise SourceUnreadable from None


def _reading(row: dict[str, str], file: Path) -> Reading:
    """Return a row's reading, or raise ValueError saying what is wrong with it."""
    try:
        class_name = LabelClass(row["class"].upper())
    except ValueError:
        raise ValueError("class is none of NORMAL, PNEUMONIA, BACTERIAL, VIRAL") from None
    digest, instance, uri = _reference(row, file)
    read_on = row.get("date", "")
    if read_on:
        try:
            read_on = datetime.date.fromisoformat(read_on).isoformat()
        except ValueError:
            raise ValueError("date is not YYYY-MM-DD") from None
    reader = row.get("reader", "") or file.name[:_READER_LENGTH]
    if len(reader) > _READER_LENGTH:
        raise ValueError("reader is longer than 64 characters")
    return Reading(
        digest=digest,
        instance_uid=instance,
        uri=uri,
        patient_key=pseudonym(row["patient"]) if row.get("patient") else None,
        class_name=class_name,
        reader=reader,
        read_on=read_on,
        source=file.name[:255],
    )


def _reference(row: dict[str, str], file: Path) -> tuple[str | None, str | None, str | None]:
    """Return a row's digest, SOP Instance UID and URI. For a path, the digest is that of its file."""
    if row.get("path"):
        try:
            uri = row["path"]
            if is_local(uri):
                uri = path_to_uri((file.parent / uri).absolute())
            content = read_file(uri, limit=WorkerSettings.read().max_file_bytes, roots=Roots.read())
            return hashlib.sha256(content.data).hexdigest(), None, uri
        except (OSError, PneumoscreenError):
            raise ValueError("path cannot be read") from None
    if row.get("digest"):
        if not _DIGEST.fullmatch(row["digest"].lower()):
            raise ValueError("digest is not a SHA-256 in hexadecimal")
        return row["digest"].lower(), None, None
    if row.get("instance"):
        return None, row["instance"], None
    raise ValueError("no path, digest or instance")
