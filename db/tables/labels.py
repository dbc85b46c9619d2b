"""Labels: readers' findings in images."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import CheckConstraint, Enum, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.tables.base import Table


class LabelClass(StrEnum):
    """A reader's finding."""

    #: No pneumonia.
    NORMAL = "NORMAL"
    #: Pneumonia of any type.
    PNEUMONIA = "PNEUMONIA"
    #: Bacterial pneumonia; implies PNEUMONIA.
    BACTERIAL = "BACTERIAL"
    #: Viral pneumonia; implies PNEUMONIA.
    VIRAL = "VIRAL"


class Label(Table):
    """One reading of one image by one reader. `db.training.labels` says which ones count."""

    __tablename__ = "labels"
    __table_args__ = (
        # The same reading is stored once. A reading names its image by digest or by instance; the other
        # constraint has no effect, because nulls are distinct.
        UniqueConstraint("digest", "class_name", "reader", "read_on"),
        UniqueConstraint("instance_uid", "class_name", "reader", "read_on"),
        CheckConstraint("digest IS NOT NULL OR instance_uid IS NOT NULL", name="reference"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: SHA-256 of the file, if the reading names a path or a digest.
    digest: Mapped[str | None] = mapped_column(String(64))
    #: SOP Instance UID (0008,0018), if the reading names it.
    instance_uid: Mapped[str | None] = mapped_column(String(64))
    #: The path or URL of the image, if the reading names it.
    uri: Mapped[str | None]
    #: The patient's pseudonym, if the file of labels tells it.
    patient_key: Mapped[str | None] = mapped_column(String(64))
    class_name: Mapped[LabelClass] = mapped_column(
        Enum(LabelClass, name="class", native_enum=False, create_constraint=True, length=16)
    )
    #: The reader; if a file of labels names nobody, the name of that file.
    reader: Mapped[str] = mapped_column(String(64))
    #: The day of the reading, YYYY-MM-DD, or empty. It is not null, because it is part of the unique
    #: constraints.
    read_on: Mapped[str] = mapped_column(String(10), default="")
    #: The name of the file of labels, without its folder.
    source: Mapped[str] = mapped_column(String(255))
    #: The same time for all labels of one import.
    created_at: Mapped[float] = mapped_column(default=database_now(), index=True)


class KeptImage(Table):
    """The place of a labelled image whose row was moved to an archive."""

    __tablename__ = "kept_images"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: SHA-256 of the file as it was screened.
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    #: SOP Instance UID (0008,0018).
    instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    uri: Mapped[str]
    #: The patient's pseudonym, if it is known.
    patient_key: Mapped[str | None] = mapped_column(String(64))
