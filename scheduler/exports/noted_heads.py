"""Digests of the audit log that were noted elsewhere: in backups, exports, summaries and text."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

from db.audit.chain import head, seal
from db.engine import Database
from db.errors import PneumoscreenError
from db.upkeep.backup import MANIFEST

#: The name of the digest in a backup, a Parquet file, a workbook and the JSON of a summary.
AUDIT_HEAD = "audit_head"

#: The digest in text: in a summary, in the output of `results` and `audit --verify`, or alone on a line.
_IN_TEXT = re.compile(rb"(?:audit[ _]head\W{1,6}|Keep this digest\W{1,6}|^)([0-9a-f]{64})\b", re.MULTILINE)

#: Bytes of a text that are searched.
_LONGEST = 64 << 20

#: The parts of a workbook that may hold the digest: the sheet "about", and after Excel has saved it again all
#: texts (ECMA-376 part 1, 12.3.15 and 12.3.24).
_OF_WORKBOOK = ("xl/worksheets/sheet2.xml", "xl/sharedStrings.xml")


class AuditHeadMissing(PneumoscreenError):
    """The file holds no digest of an audit log. Name a backup, a .parquet or .xlsx export, or a summary."""

    code = "audit-head-missing"


def sealed_head(database: Database) -> str | None:
    """Seal all events so far and return the newest digest of the audit log, or None if it has no event."""
    with database.write() as session:
        seal(session)
        session.flush()
        return head(session)


def noted_heads(file: Path) -> set[str]:
    """Return the digests that a file holds. Raises AuditHeadMissing."""
    try:
        with file.open("rb") as opened:
            found = _heads(opened)
    except (OSError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise AuditHeadMissing(type(error).__name__) from None
    if not found:
        raise AuditHeadMissing
    return found


def _heads(file: BinaryIO) -> set[str]:
    start = file.read(4)
    file.seek(0)
    if start == b"PAR1":
        from pyarrow.parquet import read_metadata

        told = (read_metadata(file).metadata or {}).get(AUDIT_HEAD.encode())
        return set() if told is None else {told.decode()}
    if start == b"PK\3\4":
        with zipfile.ZipFile(file) as workbook:
            parts = sorted(set(_OF_WORKBOOK) & set(workbook.namelist()))
            return {one for part in parts for one in _in_text(workbook.open(part))}
    if tarfile.is_tarfile(file):
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            manifest = archive.extractfile(MANIFEST)
            told = json.load(manifest).get(AUDIT_HEAD) if manifest is not None else None
        return set() if told is None else {str(told)}
    file.seek(0)
    return _in_text(file)


def _in_text(file: IO[bytes]) -> set[str]:
    return {one.decode() for one in _IN_TEXT.findall(file.read(_LONGEST))}
