"""The tables. Times are seconds since 1970-01-01 UTC by the database's clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Enum,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.clock import database_now
from db.states import BatchState, CohortState, ImageState, IngestState, ModelState, NightState, RunState


class Table(DeclarativeBase):
    """What all tables share: names for constraints, so that migrations can change them."""

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


def _states(states: type[StrEnum]) -> Enum:
    """Return a text column that a CHECK constraint holds to an enum's values."""
    return Enum(
        states,
        name="state",
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda enum: [member.value for member in enum],
    )


class Cohort(Table):
    """A set of images that were submitted under one name."""

    __tablename__ = "cohorts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    #: Where its images come from, as it was given.
    source: Mapped[str]
    #: Higher goes first.
    priority: Mapped[int] = mapped_column(default=0)
    #: The model that was asked for; null means the champion of the day.
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    state: Mapped[CohortState] = mapped_column(_states(CohortState))
    #: The nightly schedule that it belongs to.
    nightly: Mapped[str | None] = mapped_column(String(64), index=True)
    #: Why its batches have to wait, as a worker found: an error's code. Null once one has been screened.
    waits_for: Mapped[str | None] = mapped_column(String(64))
    #: When a worker first found that; null if an earlier version of a worker did.
    waits_since: Mapped[float | None]
    #: From this moment on nothing more of it is handed out; null means never.
    hold_at: Mapped[float | None]
    #: Counts by state and problem of a cohort whose rows were moved to an archive; null until then.
    archived: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[float] = mapped_column(default=database_now())


class Ingest(Table):
    """The walk of one source into one cohort; a source that is submitted again goes on in the same row."""

    __tablename__ = "ingests"
    __table_args__ = (UniqueConstraint("cohort_id", "source"), Index(None, "state", "cohort_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: The source, as `Cohort.source` has it.
    source: Mapped[str]
    state: Mapped[IngestState] = mapped_column(_states(IngestState))
    #: Fresh each time that it is taken: whoever holds another one adds nothing.
    lease_token: Mapped[str] = mapped_column(String(32))
    #: The command that holds or held it, as `host:pid`.
    lease_owner: Mapped[str] = mapped_column(String(200))
    lease_until: Mapped[float]
    created_at: Mapped[float] = mapped_column(default=database_now())


class Source(Table):
    """A place that images of a cohort were taken in from. Rows are never deleted."""

    __tablename__ = "sources"
    __table_args__ = (UniqueConstraint("cohort_id", "uri"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: The folder or URL; of a source that is one file, the folder that it lies in.
    uri: Mapped[str]
    #: Why its images have to wait: the code of the error that a worker met. Null once one has been screened.
    waits_for: Mapped[str | None] = mapped_column(String(64))
    #: When a worker first met it.
    waits_since: Mapped[float | None]
    #: When a batch of it is tried next.
    try_at: Mapped[float | None]


class Study(Table):
    """A DICOM study of a cohort (PS3.3 A.1.2)."""

    __tablename__ = "studies"
    __table_args__ = (UniqueConstraint("cohort_id", "study_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    #: Study Instance UID (0020,000D).
    study_uid: Mapped[str] = mapped_column(String(64))
    #: HMAC-SHA256 of Patient ID (0010,0020) under the site's key; the ID itself is not kept.
    patient_key: Mapped[str | None] = mapped_column(String(64))


class Model(Table):
    """A registered model; its artefact lies in the models folder under its name."""

    __tablename__ = "models"
    __table_args__ = (
        # One champion at most.
        Index(
            "uq_models_champion",
            "state",
            unique=True,
            sqlite_where=text("state = 'champion'"),
            postgresql_where=text("state = 'champion'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Backbone and digest, as in `resnet50-0123456789ab`.
    name: Mapped[str] = mapped_column(String(64), unique=True)
    backbone: Mapped[str] = mapped_column(String(32))
    weights_digest: Mapped[str] = mapped_column(String(64), unique=True)
    #: Operating point: P(PNEUMONIA) at or above this is labelled PNEUMONIA.
    threshold: Mapped[float]
    #: The whole of `model.json`.
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[ModelState] = mapped_column(_states(ModelState))
    created_at: Mapped[float] = mapped_column(default=database_now())


class Batch(Table):
    """Images that one worker screens together with one model."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease"),
        Index(None, "state", "lease_until"),
        Index(None, "cohort_id", "state"),
        Index(
            "ix_batches_uncounted",
            "state",
            sqlite_where=text("counted = 0"),
            postgresql_where=text("NOT counted"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    state: Mapped[BatchState] = mapped_column(_states(BatchState))
    #: Number of images.
    size: Mapped[int]
    #: How often it was claimed.
    attempt: Mapped[int] = mapped_column(default=0)
    #: Fresh at each claim: whoever holds another one may not write.
    lease_token: Mapped[str | None] = mapped_column(String(32))
    #: The worker that holds or held it.
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    #: When the broker was last told of it.
    rung_at: Mapped[float | None]
    #: Where its images come from; null as for them.
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id"))
    #: Not to be claimed before: it was given back because something was unavailable.
    claim_after: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None] = mapped_column(index=True)
    #: How often its lease ended without a result.
    lost: Mapped[int] = mapped_column(default=0, server_default="0")
    #: Whether it has ended and is part of `batch_totals`.
    counted: Mapped[bool] = mapped_column(default=False, server_default=false())
    #: Seconds that the worker waited for decoded pictures, computed, and wrote.
    decode_seconds: Mapped[float | None]
    forward_seconds: Mapped[float | None]
    write_seconds: Mapped[float | None]
    #: The most that the worker's process has held of its GPU's memory; null on a CPU.
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Image(Table):
    """One picture of a cohort."""

    __tablename__ = "images"
    __table_args__ = (
        # By URI first: a nightly run asks which of a source's files any of its cohorts holds.
        UniqueConstraint("uri", "frame", "cohort_id"),
        CheckConstraint("(state IN ('skipped', 'failed')) = (problem IS NOT NULL)", name="problem"),
        CheckConstraint("(state IN ('queued', 'running')) <= (batch_id IS NOT NULL)", name="batch"),
        Index(None, "cohort_id", "state", "id"),
        Index(None, "cohort_id", "instance_uid"),
        # A study that is deleted takes its images with it, and looks for them. Most files have no study.
        Index(
            None,
            "study_id",
            sqlite_where=text("study_id IS NOT NULL"),
            postgresql_where=text("study_id IS NOT NULL"),
        ),
        # What is to be cut into batches, by source.
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
    #: Where it was taken in from; null for the cohort's own source. Without a foreign key, which would cost a
    #: look-up for each image.
    source_id: Mapped[int | None]
    #: Series Instance UID (0020,000E).
    series_uid: Mapped[str | None] = mapped_column(String(64))
    #: SOP Instance UID (0008,0018).
    instance_uid: Mapped[str | None] = mapped_column(String(64))
    #: Where the file is.
    uri: Mapped[str]
    #: Counts from 0 within the file.
    frame: Mapped[int] = mapped_column(default=0)
    #: Bytes and time of the last change of the file as it was taken in; null where its source does not say.
    size: Mapped[int | None] = mapped_column(BigInteger)
    modified: Mapped[float | None]
    #: Time of the last change as a server's listing gave it, for nightly runs; a local file has it in
    #: `modified`. No worker compares it: some servers list fractions of a second, and nowhere else.
    listed_at: Mapped[float | None]
    #: SHA-256 of the file as it was screened.
    digest: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[ImageState] = mapped_column(_states(ImageState))
    #: Why it was skipped or failed: a code of `db.jobs.problems`.
    problem: Mapped[str | None] = mapped_column(String(32))
    #: How often a worker has taken it up.
    attempts: Mapped[int] = mapped_column(default=0)
    batch_id: Mapped[int | None] = mapped_column(ForeignKey("batches.id"), index=True)


class ImageCount(Table):
    """How many images of a cohort are in one state, with one problem: the sum over the shards.

    Triggers on `images` keep it, whoever changes an image; `db.queries.counts` reads it.
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

    #: Without a foreign key: its check would wait for whoever holds the cohort's row, and deadlock with them.
    cohort_id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[ImageState] = mapped_column(_states(ImageState), primary_key=True)
    #: A code of `db.jobs.problems`; empty if there is none.
    problem: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: 0 for what was folded. On PostgreSQL each statement appends its changes under a number of its own.
    shard: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    images: Mapped[int]


class BatchTotal(Table):
    """Sums over the batches that ended in one state. `db.upkeep.ended_batches` adds to them."""

    __tablename__ = "batch_totals"

    state: Mapped[BatchState] = mapped_column(_states(BatchState), primary_key=True)
    batches: Mapped[int]
    images: Mapped[int] = mapped_column(BigInteger)
    #: Leases that ended without a result.
    lost: Mapped[int]
    decode_seconds: Mapped[float]
    forward_seconds: Mapped[float]
    write_seconds: Mapped[float]
    #: Of `batches`, those whose rows were moved to an archive.
    pruned: Mapped[int]


class Prediction(Table):
    """What one model said of one image, with all that explains it years later."""

    __tablename__ = "predictions"
    __table_args__ = (
        UniqueConstraint("image_id", "model_id"),
        CheckConstraint("probability >= 0 AND probability <= 1", name="probability"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    #: P(PNEUMONIA).
    probability: Mapped[float]
    label: Mapped[str] = mapped_column(String(32))
    #: Probability by type of pneumonia, from a model that tells types apart.
    types: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    threshold: Mapped[float]
    #: Number format of the forward pass.
    precision: Mapped[str] = mapped_column(String(16))
    #: Library, version and kind of device.
    runtime: Mapped[str] = mapped_column(String(64))
    preprocessing: Mapped[str] = mapped_column(String(64))
    #: Version of pneumoscreen.
    software: Mapped[str] = mapped_column(String(32))
    #: SHA-256 of the file's bytes.
    input_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=database_now())


class LabelClass(StrEnum):
    """What a reader found."""

    #: No pneumonia.
    NORMAL = "NORMAL"
    #: Pneumonia, of whatever type.
    PNEUMONIA = "PNEUMONIA"
    #: Bacterial pneumonia, and so PNEUMONIA.
    BACTERIAL = "BACTERIAL"
    #: Viral pneumonia, and so PNEUMONIA.
    VIRAL = "VIRAL"


class Label(Table):
    """One reading of one image by one reader. Rows are only added: `db.training.labels` says which hold."""

    __tablename__ = "labels"
    __table_args__ = (
        # The same reading twice is one. An image is given by digest or by instance; the constraint of
        # the other does not bind, for nulls are distinct.
        UniqueConstraint("digest", "class_name", "reader", "read_on"),
        UniqueConstraint("instance_uid", "class_name", "reader", "read_on"),
        CheckConstraint("digest IS NOT NULL OR instance_uid IS NOT NULL", name="reference"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: SHA-256 of the file, where the reading was given by path or digest.
    digest: Mapped[str | None] = mapped_column(String(64))
    #: SOP Instance UID (0008,0018), where it was given by that.
    instance_uid: Mapped[str | None] = mapped_column(String(64))
    #: Where the image is, if the reading was given by path.
    uri: Mapped[str | None]
    #: Pseudonym of the patient, if the file told.
    patient_key: Mapped[str | None] = mapped_column(String(64))
    class_name: Mapped[LabelClass] = mapped_column(
        Enum(LabelClass, name="class", native_enum=False, create_constraint=True, length=16)
    )
    #: Who read it. Where a file names nobody it is the file's name: the file answers for itself.
    reader: Mapped[str] = mapped_column(String(64))
    #: The day of the reading as it was given, YYYY-MM-DD; empty where none was. Not null, because it is
    #: part of what makes a reading unique.
    read_on: Mapped[str] = mapped_column(String(10), default="")
    #: Name of the file that it came in with, without its folder.
    source: Mapped[str] = mapped_column(String(255))
    #: The same for all that came in together.
    created_at: Mapped[float] = mapped_column(default=database_now(), index=True)


class KeptImage(Table):
    """Where an image is that has labels and whose row was moved to an archive."""

    __tablename__ = "kept_images"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: SHA-256 of the file as it was screened.
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    #: SOP Instance UID (0008,0018).
    instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    uri: Mapped[str]
    #: Pseudonym of the patient, if it is known.
    patient_key: Mapped[str | None] = mapped_column(String(64))


class NightlyRun(Table):
    """One slot of a nightly schedule."""

    __tablename__ = "nightly_runs"
    __table_args__ = (
        # Two beats, a clock that jumps: one run per slot.
        UniqueConstraint("name", "slot"),
        Index(None, "state"),
        Index(
            "ix_nightly_runs_unsummarised",
            "state",
            sqlite_where=text("summarised_at IS NULL"),
            postgresql_where=text("summarised_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: The schedule's name.
    name: Mapped[str] = mapped_column(String(64))
    #: When it was due.
    slot: Mapped[float]
    #: When it stops handing out batches; null means that it goes on until it is done.
    window_ends: Mapped[float | None]
    #: The schedule as it was at that moment.
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[NightState] = mapped_column(_states(NightState))
    #: Its own cohort; null until it has found something new.
    cohort_id: Mapped[int | None] = mapped_column(ForeignKey("cohorts.id", ondelete="SET NULL"))
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[float | None]
    rung_at: Mapped[float | None]
    #: Why its source could not be walked: an error's code.
    problem: Mapped[str | None] = mapped_column(String(64))
    #: The morning's figures, as `scheduler.nightly.summary` counts them, and where they were `sent`.
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: When the summary was written and sent.
    summarised_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None]


class NightlySeen(Table):
    """A file that a nightly schedule took in and whose row was archived, or that it found to be no image."""

    __tablename__ = "nightly_seen"

    uri: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Bytes and time of the last change; null where its source does not say, or it is not known any more.
    size: Mapped[int | None] = mapped_column(BigInteger)
    modified: Mapped[float | None]


class TrainingRun(Table):
    """One comparison of backbones."""

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[RunState] = mapped_column(_states(RunState), index=True)
    #: Whether a worker of the training queue takes it up; otherwise the command that opened it.
    for_worker: Mapped[bool]
    #: Recipe, data, backbones and everything else that it needs, as `training.plan.Plan` has it.
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: How often it has been taken up.
    attempt: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    rung_at: Mapped[float | None]
    #: Backbone, epoch, losses and seconds left, for `status`.
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    #: Why it failed: an error's code.
    problem: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None]


class TrainingResult(Table):
    """What came of one backbone with one seed in a run."""

    __tablename__ = "training_results"
    __table_args__ = (UniqueConstraint("run_id", "backbone", "seed"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"))
    backbone: Mapped[str] = mapped_column(String(32))
    seed: Mapped[int]
    #: The candidate that it became, unless it failed.
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    #: Why it failed: an error's code.
    problem: Mapped[str | None] = mapped_column(String(64))
    #: A row per epoch: training loss, validation loss, accuracy, seconds.
    epochs: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class Site(Table):
    """What there is one of in an installation, in one row."""

    __tablename__ = "site"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Tells whether a data directory's `site.key` is the one that the pseudonyms were made with.
    key_fingerprint: Mapped[str] = mapped_column(String(64))


class Event(Table):
    """The audit log: who did what and when. Rows are only ever added, and chained by `db.audit.chain`."""

    __tablename__ = "events"
    __table_args__ = (Index("uq_events_sequence", "sequence", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(default=database_now())
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    #: What it was done to, as in `cohort:12`.
    subject: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Place in the chain, from 1; None until it is sealed.
    sequence: Mapped[int | None]
    #: SHA-256 of the event and of the digest before it, hexadecimal.
    digest: Mapped[str | None] = mapped_column(String(64))
