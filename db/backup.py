"""Backup and restore: the job table, the models and the site's key in one file, from and to any database.

The file is a tar archive: `manifest.json`, `tables/NAME.jsonl.gz` with a row a line, `models/`, and
`site.key`. It is not tied to a kind of database: a backup of SQLite is restored into PostgreSQL.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sqlalchemy import MetaData, Table, func, insert, select, text
from sqlalchemy.orm import Session

from db.audit import head
from db.disk import needs_room
from db.engine import Database
from db.errors import PneumoscreenError
from db.migrate import DatabaseTooNew, current_revision, head_revision, upgrade
from db.model_card import CARD_FILE, WEIGHTS_FILE
from db.private import create_private
from db.settings import home

MANIFEST, _KEY = "manifest.json", "site.key"

#: Rows in memory at a time.
_CHUNK = 2_000


class BackupUnwritable(PneumoscreenError):
    """The backup cannot be written. Choose a new file in a folder that exists and has room."""

    code = "backup-unwritable"


class BackupUnreadable(PneumoscreenError):
    """The file is not a backup of pneumoscreen, or it is damaged."""

    code = "backup-unreadable"


class DatabaseNotEmpty(PneumoscreenError):
    """The job table holds something already. Restore into an empty one, and an empty data directory."""

    code = "database-not-empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a backup holds."""

    revision: str
    software: str
    #: Rows by table.
    rows: dict[str, int]
    models: list[str]
    #: Whether the key of the patients' pseudonyms is in it.
    has_key: bool
    #: The newest digest of its audit log, by which `audit --verify --against` tells what came after.
    audit_head: str | None = None


def backup(database: Database, file: Path, *, with_key: bool = True) -> Contents:
    """Write a backup of one moment while the system runs; whole or not at all, readable by its owner alone.

    Raises BackupUnwritable, DiskFull.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        if file.exists():
            raise BackupUnwritable("it exists already")
        with needs_room(), create_private(partial) as out:
            contents = _write(database, out, with_key=with_key)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
    except OSError as error:
        raise BackupUnwritable from error
    finally:
        partial.unlink(missing_ok=True)
    return contents


def _write(database: Database, out: BinaryIO, *, with_key: bool) -> Contents:
    rows: dict[str, int] = {}
    key = home() / _KEY
    with (
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive,
        database.read() as session,
    ):
        tables = _tables(session)
        for table in tables:
            rows[table.name] = _write_table(archive, session, table)
        (registry,) = (table for table in tables if table.name == "models")
        # An older version's audit log has no chain.
        is_chained = any(table.name == "events" and "digest" in table.c for table in tables)
        models = sorted(session.scalars(select(registry.c.name)))
        for name in models:
            for part in (CARD_FILE, WEIGHTS_FILE):
                path = database.models_folder / name / part
                if path.is_file():
                    archive.add(path, f"models/{name}/{part}", filter=_anonymous)
        has_key = with_key and key.is_file()
        if has_key:
            archive.add(key, _KEY, filter=_anonymous)
        contents = Contents(
            revision=current_revision(database) or "",
            software=version("pneumoscreen"),
            rows=rows,
            models=models,
            has_key=has_key,
            audit_head=head(session) if is_chained else None,
        )
        manifest = {name: getattr(contents, name) for name in Contents.__dataclass_fields__}
        _add(archive, MANIFEST, io.BytesIO(json.dumps(manifest, indent=1).encode()))
    return contents


def _tables(session: Session) -> list[Table]:
    """Return the tables that the database has, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(session.connection())
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def _write_table(archive: tarfile.TarFile, session: Session, table: Table) -> int:
    count = 0
    with tempfile.TemporaryFile() as file:
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as lines:
            query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_CHUNK)
            for row in session.execute(query).mappings():
                lines.write(json.dumps(dict(row)).encode() + b"\n")
                count += 1
        file.seek(0)
        _add(archive, f"tables/{table.name}.jsonl.gz", file)
    return count


def _add(archive: tarfile.TarFile, name: str, file: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    archive.addfile(info, file)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who owned a file and when it was made."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def restore(database: Database, file: Path) -> Contents:
    """Fill an empty job table and data directory from a backup, and upgrade it to this version.

    Raises BackupUnreadable, DatabaseNotEmpty, DatabaseTooNew, DiskFull.
    """
    try:
        with needs_room(), tarfile.open(file, "r:") as archive:
            contents = _read_manifest(archive)
            if contents.revision > head_revision():
                raise DatabaseTooNew(contents.revision)
            _make_room(database)
            upgrade(database, to=contents.revision)
            with database.write() as session:
                for table in _tables(session):
                    _fill_table(archive, session, table, contents.rows.get(table.name, 0))
            _place_files(archive, database, contents)
    except (tarfile.TarError, OSError, KeyError, ValueError, TypeError) as error:
        raise BackupUnreadable(type(error).__name__) from error
    upgrade(database)
    return contents


def _read_manifest(archive: tarfile.TarFile) -> Contents:
    return Contents(**json.loads(_member(archive, MANIFEST).read()))


def _member(archive: tarfile.TarFile, name: str) -> Any:
    """Return a member's content by its name alone: nothing is unpacked to where an archive says."""
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member


def _make_room(database: Database) -> None:
    """Drop tables without a row, which may be of another revision. Raises DatabaseNotEmpty."""
    with database.write() as session:
        for table in _tables(session):
            if session.scalar(select(func.count()).select_from(table)):
                raise DatabaseNotEmpty(table.name)
        metadata = MetaData()
        metadata.reflect(session.connection())
        metadata.drop_all(session.connection())


def _fill_table(archive: tarfile.TarFile, session: Session, table: Table, expected: int) -> None:
    count = 0
    with gzip.open(_member(archive, f"tables/{table.name}.jsonl.gz")) as lines:
        rows = (json.loads(line) for line in lines)
        while chunk := list(islice(rows, _CHUNK)):
            session.execute(insert(table), chunk)
            count += len(chunk)
    if count != expected:
        raise ValueError(f"{table.name} has {count} rows of {expected}")
    if session.get_bind().dialect.name == "postgresql" and count and "id" in table.c:
        name = session.get_bind().dialect.identifier_preparer.quote(table.name)
        session.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")  # noqa: S608  (a reflected name)
        )


def _place_files(archive: tarfile.TarFile, database: Database, contents: Contents) -> None:
    for name in _plain_names(contents.models):
        folder = database.models_folder / name
        for part in (CARD_FILE, WEIGHTS_FILE):
            if f"models/{name}/{part}" in archive.getnames():
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                (folder / part).write_bytes(_member(archive, f"models/{name}/{part}").read())
    if contents.has_key:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        key = home() / _KEY
        with create_private(key) as out:
            out.write(_member(archive, _KEY).read())


def _plain_names(names: list[str]) -> Iterator[str]:
    for name in names:
        if PurePosixPath(name).name != name:
            raise ValueError("a model's name holds a path")
        yield name
