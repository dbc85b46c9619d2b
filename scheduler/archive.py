"""Moving finished cohorts into Parquet files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from db.archive import CohortNotFinished, archive_rows, cohorts_to_archive, remove_rows
from db.disk import needs_room
from db.engine import Database
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
    the two is written anew. Raises OutputUnwritable, DiskFull.
    """
    with database.read() as session:
        old = cohorts_to_archive(session, older_than_seconds=days * _DAY_SECONDS)
        cohorts = [(one.id, one.name) for one in old]
    moved = []
    for cohort_id, name in cohorts:
        file = folder / f"cohort-{cohort_id:06d}.parquet"
        rows = _write(database, cohort_id, name, file)
        try:
            with database.write() as session:
                remove_rows(session, cohort_id, rows=rows)
        except CohortNotFinished:  # retried meanwhile
            file.unlink()
            continue
        moved.append(Archived(cohort=name, rows=rows, file=file))
    return moved


def _write(database: Database, cohort_id: int, name: str, file: Path) -> int:
    """Write a cohort's rows and return how many."""
    from pyarrow.parquet import ParquetWriter

    count = 0
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.touch(mode=0o600)
        schema = _schema()
        with needs_room(), database.read() as session, ParquetWriter(partial, schema) as writer:
            rows = archive_rows(session, cohort_id)
            while chunk := list(islice(rows, _CHUNK)):
                writer.write_table(_table([row | {"cohort": name} for row in chunk], schema))
                count += len(chunk)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except OSError as error:
        raise OutputUnwritable from error
    finally:
        partial.unlink(missing_ok=True)
    return count


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
