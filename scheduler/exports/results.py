"""Results of a cohort, written to a file whose suffix decides its format."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import cast

from sqlalchemy.orm import Session

from db.atomic import needs_room, write_whole
from db.audit.chain import head
from db.audit.events import record
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived, find_cohort
from db.queries.results import cohort_results
from db.tables import Cohort
from scheduler.exports.columns import Column
from scheduler.exports.formats import format_modules
from scheduler.exports.selection import ALL, Selection
from scheduler.exports.target import Cells, Format, Target
from scheduler.ingest.pseudonym import ensure_site_key


class OutputFormatUnknown(PneumoscreenError):
    """The output file's name must end in .csv, .xlsx, .parquet or .json, which decides its format."""

    code = "output-format-unknown"


class OutputUnwritable(PneumoscreenError):
    """The output file cannot be written. Choose a folder that exists and that you may write to."""

    code = "output-unwritable"


def check_output(out: Path) -> None:
    """Raise OutputFormatUnknown or OutputUnwritable before any work is done, if nothing could be written."""
    if out.suffix.lower() not in format_modules():
        raise OutputFormatUnknown
    if not out.parent.is_dir() or out.is_dir():
        raise OutputUnwritable


def write_results(database: Database, name: str, out: Path, selection: Selection = ALL) -> int:
    """Write a cohort's rows to a CSV, Excel, Parquet or JSON file and return how many; whole or not at all.

    Without identifiers, UIDs are pseudonyms and files are named by digest. The audit log records it.
    In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.
    If two exports to the same file run at once, each writes a whole file, and the last one stays.
    Raises CohortUnknown, OutputFormatUnknown, OutputUnwritable, ColumnUnknown, ColumnHidden, SheetTooLong,
    CohortArchived, SiteKeyMissing, SiteKeyUnusable, SiteKeyDiffers, DiskFull.
    """
    check_output(out)
    columns = selection.chosen()
    format_ = cast(Format, import_module(format_modules()[out.suffix.lower()]))
    if not selection.identifiers:
        ensure_site_key(database)
    try:
        with needs_room(), write_whole(out) as file:
            with database.read() as session:
                cohort = find_cohort(session, name)
                if cohort.archived is not None:
                    raise CohortArchived
                rows = selection.count(session, cohort)
                target = Target(file=file, columns=columns, rows=rows, audit_head=head(session))
                rows = format_.write(_cells(session, cohort, selection, columns), target)
            with database.write() as session:
                shown = {one: getattr(selection, one) for one in ("identifiers", "names", "accession")}
                record(session, "results.export", f"cohort:{cohort.id}", rows=rows, **shown)
    except OSError as error:
        raise OutputUnwritable from error
    return rows


def _cells(
    session: Session, cohort: Cohort, selection: Selection, columns: tuple[Column, ...]
) -> Iterator[Cells]:
    cells = attrgetter(*(column.name for column in columns))
    rows = cohort_results(session, cohort, disclosure=selection.disclosure, states=selection.all_states)
    for row in rows:
        yield cells(row) if len(columns) > 1 else (cells(row),)
