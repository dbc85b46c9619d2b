"""Results of a cohort, written to a file whose suffix decides its format."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from db.atomic import needs_room, write_whole
from db.audit.chain import head
from db.audit.events import record
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived, find_cohort
from db.queries.results import cohort_results
from scheduler.exports.formats import format_modules
from scheduler.exports.target import Format, Target
from scheduler.ingest.pseudonym import ensure_site_key, uid_pseudonyms


class OutputFormatUnknown(PneumoscreenError):
    """The output file's name must end in .csv, .parquet or .json, which decides its format."""

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


def write_results(database: Database, name: str, out: Path, *, identifiers: bool = False) -> int:
    """Write a cohort's rows to a CSV, Parquet or JSON file and return how many; whole or not at all.

    Without `identifiers`, UIDs are pseudonyms and files are named by digest. The audit log records it.
    In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.
    If two exports to the same file run at once, each writes a whole file, and the last one stays.
    Raises CohortUnknown, OutputFormatUnknown, OutputUnwritable, CohortArchived, SiteKeyMissing,
    SiteKeyUnusable, SiteKeyDiffers, DiskFull.
    """
    check_output(out)
    format_ = cast(Format, import_module(format_modules()[out.suffix.lower()]))
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
                rows = format_.write(found, Target(file, noted))
            with database.write() as session:
                record(session, "results.export", f"cohort:{cohort.id}", rows=rows, identifiers=identifiers)
    except OSError as error:
        raise OutputUnwritable from error
    return rows
