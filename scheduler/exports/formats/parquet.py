"""Parquet, with the head of the audit log among the file's key-value metadata."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from scheduler.exports.columns import Kind
from scheduler.exports.noted_heads import AUDIT_HEAD
from scheduler.exports.target import Cells, Target

#: Rows held in memory at a time, which become one row group.
_CHUNK = 5_000


def write(rows: Iterator[Cells], target: Target) -> int:
    """Write a table; return the number of rows."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = _schema(target)
    count = 0
    with ParquetWriter(target.file, schema) as writer:
        while chunk := list(islice(rows, _CHUNK)):
            columns = [
                pa.array(values, type=field.type)
                for values, field in zip(zip(*chunk, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(chunk)
    return count


def _schema(target: Target) -> Any:
    import pyarrow as pa

    types = {Kind.TEXT: pa.string(), Kind.INTEGER: pa.int64(), Kind.PROBABILITY: pa.float64()}
    schema = pa.schema([(column.name, types[column.kind]) for column in target.columns])
    return schema if target.audit_head is None else schema.with_metadata({AUDIT_HEAD: target.audit_head})
