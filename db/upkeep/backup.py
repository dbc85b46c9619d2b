"""Backup and restore of the job table, the models and the site's key, in one file.

The file is a tar archive: `manifest.json`, `tables/NAME.jsonl.gz` with one row per line, `models/` and
`site.key`. It does not depend on the kind of database: a backup of SQLite can be restored into PostgreSQL.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sqlalchemy import MetaData, Table, exists, insert, select, text
from sqlalchemy.orm import Session

from db.atomic import needs_room, remove_partials, write_whole
from db.audit.chain import head
from db.audit.events import record
from db.engine import Database, on_postgresql
from db.errors import PneumoscreenError
from db.models.store import CARD_FILE, STATISTICS_FILE, WEIGHTS_FILE
from db.settings import home
from db.tables import Event, ImageCount
from db.upkeep.migrate import DatabaseTooNew, current_revision, head_revision, upgrade_on

MANIFEST, _KEY = "manifest.json", "site.key"

#: An action in the audit log. Its event is the newest one until something else is done.
_RESTORE = "database.restore"

#: Rows in memory at a time.
_CHUNK = 2_000

#: The files of a model.
_MODEL_FILES = (CARD_FILE, WEIGHTS_FILE, STATISTICS_FILE)


class BackupUnwritable(PneumoscreenError):
    """The backup cannot be written. Choose a new file in a folder that exists and has room."""

    code = "backup-unwritable"


class BackupUnreadable(PneumoscreenError):
    """The file is not a backup of pneumoscreen, or it is damaged."""

    code = "backup-unreadable"


class DatabaseNotEmpty(PneumoscreenError):
    """The job table is not empty. Restore into an empty job table and an empty data directory."""

    code = "database-not-empty"


class RestoreKeyDiffers(PneumoscreenError):
    """The data directory has another `site.key` than the backup. Move that file away, and restore again."""

    code = "restore-key-differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents of a backup."""

    revision: str
    software: str
    #: Rows by table.
    rows: dict[str, int]
    models: list[str]
    #: Whether the key of the patients' pseudonyms is in it.
    has_key: bool
    #: The newest digest of its audit log. `audit --verify --against` checks that a later log still has it.
    audit_head: str | None = None


def backup(database: Database, file: Path, *, with_key: bool = True) -> Contents:
    """Write a backup of one moment, also while the system runs. The file is whole or absent, and private.

    Raises BackupUnwritable, DiskFull.
    """
    try:
        if os.path.lexists(file):
            raise FileExistsError
        with needs_room(), write_whole(file, replace=False) as out:
            return _write(database, out, with_key=with_key)
    except FileExistsError as error:
        raise BackupUnwritable("it exists already") from error
    except OSError as error:
        raise BackupUnwritable from error


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
            for part in _MODEL_FILES:
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
    """Return the database's tables. A table comes after those that it refers to.

    Alembic's table and the counters of images are left out: a restore fills them by upgrade and triggers.
    """
    metadata = MetaData()
    metadata.reflect(session.connection())
    own = ("alembic_version", ImageCount.__tablename__)
    return [table for table in metadata.sorted_tables if table.name not in own]


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
    """Remove the file's owner and its time of change."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def restore(database: Database, file: Path) -> Contents:
    """Fill an empty job table and data directory from a backup, and upgrade the table to this version.

    If it is killed at any moment, it can be run again with the same result: the key comes first, then the
    models, each file whole, and last the job table, in one transaction. If a finished restore is repeated
    before anything else is done, it changes nothing.
    Raises BackupUnreadable, DatabaseNotEmpty, RestoreKeyDiffers, DatabaseTooNew, DiskFull.
    """
    try:
        with needs_room(), tarfile.open(file, "r:") as archive:
            contents = _read_manifest(archive)
            if contents.revision > head_revision():
                raise DatabaseTooNew(contents.revision)
            backup_digest = _digest(file)
            if not _was_restored(database, backup_digest):
                with database.read() as session:
                    _check_empty(session)
            if contents.has_key:
                _place_key(archive)
            _place_models(archive, database, contents)
            if not _was_restored(database, backup_digest):
                _fill(archive, database, contents, backup_digest)
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, TypeError) as error:
        raise BackupUnreadable(type(error).__name__) from error
    return contents


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _was_restored(database: Database, backup_digest: str) -> bool:
    """Tell whether the job table holds this backup, and nothing was done after the restore."""
    if current_revision(database) != head_revision():
        return False
    with database.read() as session:
        newest = session.scalar(select(Event).order_by(Event.id.desc()).limit(1))
    return newest is not None and newest.action == _RESTORE and newest.detail.get("backup") == backup_digest


def _check_empty(session: Session) -> None:
    for table in _tables(session):
        if session.scalar(select(exists(select(table)))):
            raise DatabaseNotEmpty(table.name)


def _fill(archive: tarfile.TarFile, database: Database, contents: Contents, backup_digest: str) -> None:
    """Create the tables of the backup's revision, fill them and upgrade them, in one transaction."""
    with database.write() as session:
        connection = session.connection()
        _check_empty(session)  # another process may have written to it meanwhile
        metadata = MetaData()
        metadata.reflect(connection)
        metadata.drop_all(connection)  # they may be of another revision
        upgrade_on(connection, to=contents.revision)
        for table in _tables(session):
            _fill_table(archive, session, table, contents.rows.get(table.name, 0))
        upgrade_on(connection)
        rows = sum(contents.rows.values())
        record(session, _RESTORE, "database", backup=backup_digest, rows=rows, key=contents.has_key)


def _read_manifest(archive: tarfile.TarFile) -> Contents:
    return Contents(**json.loads(_member(archive, MANIFEST).read()))


def _member(archive: tarfile.TarFile, name: str) -> Any:
    """Return a member's content. Nothing is unpacked: an archive could name a path outside our folders."""
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member


def _fill_table(archive: tarfile.TarFile, session: Session, table: Table, expected: int) -> None:
    count = 0
    with gzip.open(_member(archive, f"tables/{table.name}.jsonl.gz")) as lines:
        rows = (json.loads(line) for line in lines)
        while chunk := list(islice(rows, _CHUNK)):
            session.execute(insert(table), chunk)
            count += len(chunk)
    if count != expected:
        raise ValueError(f"{table.name} has {count} rows of {expected}")
    if on_postgresql(session) and count and "id" in table.c:
        name = session.get_bind().dialect.identifier_preparer.quote(table.name)
        session.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")  # noqa: S608  (a reflected name)
        )


def _place_key(archive: tarfile.TarFile) -> None:
    """Put the key into the data directory. Raises RestoreKeyDiffers if another one is there."""
    content, key = _member(archive, _KEY).read(), home() / _KEY
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError), write_whole(key, replace=False) as out:
        out.write(content)
    if key.read_bytes() != content:
        raise RestoreKeyDiffers


def _place_models(archive: tarfile.TarFile, database: Database, contents: Contents) -> None:
    there = set(archive.getnames())
    for name in _plain_names(contents.models):
        folder = database.models_folder / name
        remove_partials(folder)  # of a restore that was killed
        for part in _MODEL_FILES:
            if f"models/{name}/{part}" in there:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                with write_whole(folder / part) as out:
                    shutil.copyfileobj(_member(archive, f"models/{name}/{part}"), out)


def _plain_names(names: list[str]) -> Iterator[str]:
    for name in names:
        if PurePosixPath(name).name != name:
            raise ValueError("a model's name holds a path")
        yield name
