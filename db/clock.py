"""The database's clock. It alone decides when a lease expires, because workers' clocks may be wrong."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Float
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_now(FunctionElement[float]):  # noqa: N801  (named like the SQL function that it is)
    """Seconds since 1970-01-01 UTC by the database's clock, as a double."""

    type = Float(53)
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql(*_: Any, **__: Any) -> str:
    # Not now(): its value does not change within a transaction.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
