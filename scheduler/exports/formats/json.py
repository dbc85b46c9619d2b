"""JSON: an array of objects, one on each line, which has no place for anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scheduler.exports.target import DIGITS, Cells, Target


def write(rows: Iterator[Cells], target: Target) -> int:
    """Write the array; return the number of rows."""
    count = 0
    with target.as_text() as file:
        file.write("[")
        for count, row in enumerate(rows, start=1):
            cells = (round(cell, DIGITS) if isinstance(cell, float) else cell for cell in row)
            record = dict(zip(target.names, cells, strict=True))
            file.write(("," if count > 1 else "") + "\n" + json.dumps(record))
        file.write("\n]\n")
    return count
