"""JSON: an array of objects, one on each line, which has no place for anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from db.queries.results import ResultRow
from scheduler.exports.target import Target


def write(rows: Iterator[ResultRow], target: Target) -> int:
    """Write the array; return the number of rows."""
    count = 0
    with target.as_text() as file:
        file.write("[")
        for count, row in enumerate(rows, start=1):
            file.write(("," if count > 1 else "") + "\n" + json.dumps(asdict(row)))
        file.write("\n]\n")
    return count
