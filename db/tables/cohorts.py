"""Cohorts, their sources and their studies."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.states import CohortState, IngestState
from db.tables.base import Table, states


class Cohort(Table):
    """A set of images that were submitted under one name."""

    __tablename__ = "cohorts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    #: Where its images come from, as the user named it.
    source: Mapped[str]
    #: A higher one is screened first.
    priority: Mapped[int] = mapped_column(default=0)
    #: The model that the user chose; null means the champion at the time of each batch.
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    state: Mapped[CohortState] = mapped_column(states(CohortState))
    #: The nightly schedule that it belongs to.
    nightly: Mapped[str | None] = mapped_column(String(64), index=True)
    #: The code of the error that makes its batches wait; null once a batch was screened.
    waits_for: Mapped[str | None] = mapped_column(String(64))
    #: When a worker first met that error; null if the worker was of an earlier version.
    waits_since: Mapped[float | None]
    #: No batches are cut from it after this time; null means no limit.
    hold_at: Mapped[float | None]
    #: Its counts by state and problem once its rows were moved to an archive; null before.
    archived: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[float] = mapped_column(default=database_now())


class Ingest(Table):
    """The reading of one source into one cohort; submitting the source again uses the same row."""

    __tablename__ = "ingests"
    __table_args__ = (UniqueConstraint("cohort_id", "source"), Index(None, "state", "cohort_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: The source, as `Cohort.source` has it.
    source: Mapped[str]
    state: Mapped[IngestState] = mapped_column(states(IngestState))
    #: New for each holder: a command with another token can add nothing.
    lease_token: Mapped[str] = mapped_column(String(32))
    #: The command that holds it or held it last, as `host:pid`.
    lease_owner: Mapped[str] = mapped_column(String(200))
    lease_until: Mapped[float]
    created_at: Mapped[float] = mapped_column(default=database_now())


class Source(Table):
    """A place that images of a cohort come from. Rows are never deleted."""

    __tablename__ = "sources"
    __table_args__ = (UniqueConstraint("cohort_id", "uri"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: The folder or URL; for a source that is one file, the folder of that file.
    uri: Mapped[str]
    #: The code of the error that makes its images wait; null once a batch was screened.
    waits_for: Mapped[str | None] = mapped_column(String(64))
    #: When a worker first met that error.
    waits_since: Mapped[float | None]
    #: When the next batch of it may be tried.
    try_at: Mapped[float | None]


class Study(Table):
    """A DICOM study of a cohort (PS3.3 A.1.2)."""

    __tablename__ = "studies"
    __table_args__ = (UniqueConstraint("cohort_id", "study_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: Study Instance UID (0020,000D).
    study_uid: Mapped[str] = mapped_column(String(64))
    #: HMAC-SHA256 of the Patient ID (0010,0020) under the site's key; the ID itself is not kept.
    patient_key: Mapped[str | None] = mapped_column(String(64))
    #: Accession Number (0008,0050), if the setting `keep_accession` was on when the study was added.
    accession: Mapped[str | None] = mapped_column(String(64))
