"""Images and their counters."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.states import ImageState
from db.tables.base import Table, states


class Image(Table):
    """One image of a cohort."""

    __tablename__ = "images"
    __table_args__ = (
        # The URI comes first: a nightly run looks up which files any of its cohorts holds.
        UniqueConstraint("uri", "frame", "cohort_id"),
        CheckConstraint("(state IN ('skipped', 'failed')) = (problem IS NOT NULL)", name="problem"),
        CheckConstraint("(state IN ('queued', 'running')) <= (batch_id IS NOT NULL)", name="batch"),
        Index(None, "cohort_id", "state", "id"),
        Index(None, "cohort_id", "instance_uid"),
        # Deleting a study deletes its images, which this index finds. Most files have no study.
        Index(
            None,
            "study_id",
            sqlite_where=text("study_id IS NOT NULL"),
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        # The images to cut into batches, by source.
        Index(
            "ix_images_pending",
            "cohort_id",
            "source_id",
            "id",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    #: Where it comes from; null for an image that an earlier version added. It has no foreign key: that would
    #: cost a look-up for each image.
    source_id: Mapped[int | None]
    #: Series Instance UID (0020,000E).
    series_uid: Mapped[str | None] = mapped_column(String(64))
    #: SOP Instance UID (0008,0018).
    instance_uid: Mapped[str | None] = mapped_column(String(64))
    #: The path or URL of its file.
    uri: Mapped[str]
    #: The frame within the file, counted from 0.
    frame: Mapped[int] = mapped_column(default=0)
    #: The file's size in bytes and its time of change when it was added; null if the source does not tell.
    size: Mapped[int | None] = mapped_column(BigInteger)
    modified: Mapped[float | None]
    #: The time of change in a server's listing, for nightly runs; for a local file `modified` has it. Workers
    #: do not compare it: some servers give fractions of a second in listings alone.
    listed_at: Mapped[float | None]
    #: SHA-256 of the file as it was screened.
    digest: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[ImageState] = mapped_column(states(ImageState))
    #: Why it was skipped or failed: a code of `db.jobs.problems`.
    problem: Mapped[str | None] = mapped_column(String(32))
    #: How often a worker has claimed it.
    attempts: Mapped[int] = mapped_column(default=0)
    batch_id: Mapped[int | None] = mapped_column(ForeignKey("batches.id"), index=True)


class ImageCount(Table):
    """How many images of a cohort are in one state, with one problem: the sum over the shards.

    Triggers on `images` update it at every change of an image.
    """

    __tablename__ = "image_counts"
    __table_args__ = (
        Index(None, "state", "cohort_id"),
        Index(
            "ix_image_counts_to_fold",
            "cohort_id",
            sqlite_where=text("shard <> 0 OR images = 0"),
            postgresql_where=text("shard <> 0 OR images = 0"),
        ),
        {"sqlite_with_rowid": False},
    )

    #: It has no foreign key: the check would wait for a lock on the cohort's row, and could deadlock.
    cohort_id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[ImageState] = mapped_column(states(ImageState), primary_key=True)
    #: A code of `db.jobs.problems`; empty if there is none.
    problem: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: 0 for a folded row. On PostgreSQL each statement appends its changes under a new number.
    shard: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    images: Mapped[int]
