"""The base class of all tables, and the type of their state columns."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Enum, Float, MetaData
from sqlalchemy.orm import DeclarativeBase


class Table(DeclarativeBase):
    """The base of all tables. It names constraints, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {float: Float(53)}  # noqa: RUF012  (SQLAlchemy's own way)


def states(of: type[StrEnum]) -> Enum:
    """Return the type of a text column that a CHECK constraint limits to an enum's values."""
    return Enum(
        of,
        name="state",
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda enum: [member.value for member in enum],
    )
