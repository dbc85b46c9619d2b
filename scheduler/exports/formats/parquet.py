"""Parquet, with the head of the audit log among the file's key-value metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

from db.queries.results import ResultRow
from scheduler.exports.noted_heads import AUDIT_HEAD
from scheduler.exports.target import COLUMNS, Target

#: Rows held in memory at a time, which become one row group.
_CHUNK = 5_000

_NUMBERS = frozenset({"probability", "threshold", "type_probability"})


def write(rows: Iterator[ResultRow], target: Target) -> int:
    """Write a table; return the number of rows."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([(name, pa.float64() if name in _NUMBERS else pa.string()) for name in COLUMNS])
    if target.audit_head is not None:
        schema = schema.with_metadata({AUDIT_HEAD: target.audit_head})
    count = 0
    with ParquetWriter(target.file, schema) as writer:
        while chunk := [asdict(row) for row in islice(rows, _CHUNK)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count
