"""Moving finished cohorts into Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from db.atomic import create_private, needs_room, partial_beside, place
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived
from db.text import counted
from db.upkeep.archive import CohortNotFinished, Stamp, archive_rows, cohorts_to_archive, remove_rows, stamp
from scheduler.exports.results import OutputUnwritable

#: Rows in memory at a time.
_CHUNK = 5_000

_DAY_SECONDS = 86_400.0


#: Characters of a cohort's name that are replaced in a file's name, and the length that is kept.
_UNSAFE, _LONGEST_SLUG = re.compile(r"[^a-z0-9]+"), 60


class ArchiveDamaged(PneumoscreenError):
    """The archive does not read back as it was written, and no row was deleted. Check the disk, try again."""

    code = "archive-damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A cohort that was moved."""

    cohort: str
    rows: int
    file: Path
    #: SHA-256 of the file, hexadecimal.
    digest: str


def prune(database: Database, folder: Path, *, days: float) -> list[Archived]:
    """Move finished cohorts that are older than `days` days into files in a folder.

    Each file is written whole and read back before a row is deleted. Its name is unique, and the audit log
    records it. A command that is killed after the file has its name and before the commit leaves the file,
    which the audit log does not name; one that is killed earlier leaves a hidden `.partial`. Raises
    OutputUnwritable, ArchiveDamaged, DiskFull.
    """
    with database.read() as session:
        old = cohorts_to_archive(session, older_than_seconds=days * _DAY_SECONDS)
        cohorts = [(one.id, one.name) for one in old]
    moved = []
    for cohort_id, name in cohorts:
        # Another command has retried or moved it meanwhile.
        with suppress(CohortNotFinished, CohortArchived):
            moved.append(_move(database, cohort_id, name, folder / _file_name(name)))
    return moved


def _file_name(cohort: str) -> str:
    """Return a unique name, made of the cohort's name and the time."""
    plain = unicodedata.normalize("NFKD", cohort).encode("ascii", "ignore").decode().lower()
    slug = _UNSAFE.sub("-", plain)[:_LONGEST_SLUG].strip("-") or "cohort"
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{slug}-{moment}-{secrets.token_hex(6)}.parquet"


def _move(database: Database, cohort_id: int, name: str, file: Path) -> Archived:
    partial = partial_beside(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamped, digest = _write(database, cohort_id, name, partial)
        _check(partial, stamped.rows, digest)
        with database.write() as session:
            remove_rows(session, cohort_id, stamped, file=file.name, digest=digest)
            # After the check that the rows have not changed, and before their deletion is committed. If the
            # answer of the commit is lost, nobody knows whether it took place: from here on the file stays.
            place(partial, file, replace=False)
    except OSError as error:
        raise OutputUnwritable from error
    finally:
        partial.unlink(missing_ok=True)
    return Archived(cohort=name, rows=stamped.rows, file=file, digest=digest)


def _write(database: Database, cohort_id: int, name: str, file: Path) -> tuple[Stamp, str]:
    """Write a cohort's rows; return the cohort's stamp at that moment, and the file's SHA-256."""
    from pyarrow.parquet import ParquetWriter

    schema = _schema()
    with needs_room(), database.read() as session, create_private(file) as out:
        stamped = stamp(session, cohort_id)
        hashed = _Hashed(out)
        with ParquetWriter(hashed, schema) as writer:
            rows = archive_rows(session, cohort_id)
            while chunk := list(islice(rows, _CHUNK)):
                writer.write_table(_table([row | {"cohort": name} for row in chunk], schema))
        out.flush()
        os.fsync(out.fileno())
    return stamped, hashed.digest.hexdigest()


class _Hashed(io.RawIOBase):
    """A stream that passes bytes on to a file and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, content: Any) -> int:
        """Write and hash bytes."""
        self.digest.update(content)
        return self._file.write(content)


def _check(file: Path, rows: int, digest: str) -> None:
    """Read an archive back. Raises ArchiveDamaged if it is not what was written, or has other rows."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with file.open("rb") as found:
        # Drop the page cache, so that the bytes are read from the disk.
        os.posix_fadvise(found.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if hashlib.file_digest(found, "sha256").hexdigest() != digest:
            raise ArchiveDamaged("other bytes")
    try:
        with ParquetFile(file) as archive:
            count = sum(batch.num_rows for batch in archive.iter_batches())
    except (pa.ArrowException, OSError) as error:
        raise ArchiveDamaged("it cannot be read") from error
    if count != rows:
        raise ArchiveDamaged(f"{count} of {counted(rows, 'row')}")


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
        + [(name, pa.float64()) for name in ("probability", "threshold", "familiarity", "predicted_at")]
        + [
            (name, pa.string())
            for name in (
                "weights_digest", "precision", "runtime", "preprocessing", "software", "input_digest",
                "accession", "caution",
            )
        ]
    )  # fmt: skip
