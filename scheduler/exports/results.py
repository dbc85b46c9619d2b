"""Writing results to files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from db.atomic import needs_room, write_whole
from db.audit.chain import head
from db.audit.events import record
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived, find_cohort
from db.queries.results import ResultRow, cohort_results
from scheduler.exports.noted_heads import AUDIT_HEAD
from scheduler.ingest.pseudonym import ensure_site_key, uid_pseudonyms

COLUMNS = tuple(field.name for field in fields(ResultRow))

#: Rows held in memory at a time.
_CHUNK = 5_000

#: What a formula begins with in a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class OutputFormatUnknown(PneumoscreenError):
    """The output file's name must end in .csv, .parquet or .json, which decides its format."""

    code = "output-format-unknown"


class OutputUnwritable(PneumoscreenError):
    """The output file cannot be written. Choose a folder that exists and that you may write to."""

    code = "output-unwritable"


def check_output(out: Path) -> None:
    """Raise OutputFormatUnknown or OutputUnwritable before any work goes into what could not be written."""
    if out.suffix.lower() not in _WRITERS:
        raise OutputFormatUnknown
    if not out.parent.is_dir() or out.is_dir():
        raise OutputUnwritable


def write_results(database: Database, name: str, out: Path, *, identifiers: bool = False) -> int:
    """Write a cohort's rows to a CSV, Parquet or JSON file and return how many; whole or not at all.

    Without `identifiers`, UIDs are pseudonyms and files are named by digest. The audit log tells of it.
    In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.
    Of two who write to one file at once, each writes its own whole, and the last one's stays.
    Raises CohortUnknown, OutputFormatUnknown, OutputUnwritable, CohortArchived, SiteKeyMissing,
    SiteKeyUnusable, SiteKeyDiffers, DiskFull.
    """
    check_output(out)
    if not identifiers:
        ensure_site_key(database)
    try:
        with needs_room(), write_whole(out) as file:
            with database.read() as session:
                cohort = find_cohort(session, name)
                if cohort.archived is not None:
                    raise CohortArchived
                noted = head(session)
                pseudonym = None if identifiers else uid_pseudonyms()
                found = cohort_results(session, cohort, pseudonym=pseudonym)
                rows = _WRITERS[out.suffix.lower()](file, found, noted)
            with database.write() as session:
                record(session, "results.export", f"cohort:{cohort.id}", rows=rows, identifiers=identifiers)
    except OSError as error:
        raise OutputUnwritable from error
    return rows


def _write_csv(out: BinaryIO, rows: Iterator[ResultRow], _audit_head: str | None) -> int:
    """Write a table, which has no place for anything but its rows."""
    count = 0
    with _as_text_file(out) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for count, row in enumerate(rows, start=1):  # noqa: B007  (the last count is the answer)
            writer.writerow(map(_as_text, astuple(row)))
    return count


@contextmanager
def _as_text_file(out: BinaryIO) -> Iterator[TextIOWrapper]:
    """Write text, and leave the file open."""
    file = TextIOWrapper(out, newline="", encoding="utf-8")
    try:
        yield file
    finally:
        file.detach()


def _as_text(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula (OWASP, CSV injection). Numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _write_json(out: BinaryIO, rows: Iterator[ResultRow], _audit_head: str | None) -> int:
    """Write an array of objects, a line each, which has no place for anything else either."""
    count = 0
    with _as_text_file(out) as file:
        file.write("[")
        for count, row in enumerate(rows, start=1):
            file.write(("," if count > 1 else "") + "\n" + json.dumps(asdict(row)))
        file.write("\n]\n")
    return count


def _write_parquet(out: BinaryIO, rows: Iterator[ResultRow], audit_head: str | None) -> int:
    """Write a table, with the head of the audit log among the file's key-value metadata."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    numbers = {"probability", "threshold", "type_probability"}
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    if audit_head is not None:
        schema = schema.with_metadata({AUDIT_HEAD: audit_head})
    count = 0
    with ParquetWriter(out, schema) as writer:
        while chunk := [asdict(row) for row in islice(rows, _CHUNK)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count


_WRITERS: dict[str, Callable[[BinaryIO, Iterator[ResultRow], str | None], int]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
}
