"""Moving finished cohorts into Parquet files."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from db.archive import CohortNotFinished, Stamp, archive_rows, cohorts_to_archive, remove_rows, stamp
from db.cohorts import CohortArchived
from db.disk import needs_room
from db.engine import Database
from db.private import create_private
from scheduler.results import OutputUnwritable

#: Rows in memory at a time.
_CHUNK = 5_000

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A cohort that was moved."""

    cohort: str
    rows: int
    file: Path


def prune(database: Database, folder: Path, *, days: float) -> list[Archived]:
    """Move cohorts that are finished and older than so many days into files of a folder.

    Each is written whole before a row of it is deleted. A file of an earlier try that was stopped between
    the two is written anew; one that was stopped before leaves a hidden `.partial`. Raises OutputUnwritable,
    DiskFull.
    """
    with database.read() as session:
        old = cohorts_to_archive(session, older_than_seconds=days * _DAY_SECONDS)
        cohorts = [(one.id, one.name) for one in old]
    moved = []
    for cohort_id, name in cohorts:
        # Retried or moved by somebody else meanwhile.
        with suppress(CohortNotFinished, CohortArchived):
            moved.append(_move(database, cohort_id, name, folder / f"cohort-{cohort_id:06d}.parquet"))
    return moved


def _move(database: Database, cohort_id: int, name: str, file: Path) -> Archived:
    # A name of its own: two who move the same cohort must not write into one file.
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamped = _write(database, cohort_id, name, partial)
        with database.write() as session:
            remove_rows(session, cohort_id, stamped)
            # Not before it is sure that these are the rows: another's archive may have the name already.
            partial.replace(file)
            _sync(file.parent)
    except OSError as error:
        raise OutputUnwritable from error
    finally:
        partial.unlink(missing_ok=True)
    return Archived(cohort=name, rows=stamped.rows, file=file)


def _write(database: Database, cohort_id: int, name: str, file: Path) -> Stamp:
    """Write a cohort's rows and return how it stood at that moment."""
    from pyarrow.parquet import ParquetWriter

    schema = _schema()
    with needs_room(), database.read() as session, create_private(file) as out:
        stamped = stamp(session, cohort_id)
        with ParquetWriter(out, schema) as writer:
            rows = archive_rows(session, cohort_id)
            while chunk := list(islice(rows, _CHUNK)):
                writer.write_table(_table([row | {"cohort": name} for row in chunk], schema))
        out.flush()
        os.fsync(out.fileno())
    return stamped


def _sync(folder: Path) -> None:
    """Wait until the names in a folder would outlast a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    """Return rows as a table; types of pneumonia as JSON text."""
    import pyarrow as pa

    for row in rows:
        row["types"] = None if row["types"] is None else json.dumps(row["types"])
    return pa.Table.from_pylist(rows, schema=schema)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [("cohort", pa.string()), ("image", pa.int64())]
        + [(name, pa.string()) for name in ("study", "patient", "series", "instance", "source")]
        + [("frame", pa.int64())]
        + [(name, pa.string()) for name in ("digest", "state", "error", "label", "types", "model")]
        + [(name, pa.float64()) for name in ("probability", "threshold", "predicted_at")]
        + [
            (name, pa.string())
            for name in (
                "weights_digest", "precision", "runtime", "preprocessing", "software", "input_digest",
            )
        ]
    )  # fmt: skip
