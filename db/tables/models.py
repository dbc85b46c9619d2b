"""Registered models, their predictions, and their acceptances at this site."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.states import ModelState
from db.tables.base import Table, states


class Model(Table):
    """A registered model. Its artefact is in the models folder under its name."""

    __tablename__ = "models"
    __table_args__ = (
        # At most one champion.
        Index(
            "uq_models_champion",
            "state",
            unique=True,
            sqlite_where=text("state = 'champion'"),
            postgresql_where=text("state = 'champion'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Backbone and digest, as in `resnet50-0123456789ab`; of a tuned version, with a digest of its tuning.
    name: Mapped[str] = mapped_column(String(64), unique=True)
    backbone: Mapped[str] = mapped_column(String(32))
    weights_digest: Mapped[str] = mapped_column(String(64))
    #: Operating point: an image with at least this P(PNEUMONIA) is labelled PNEUMONIA.
    threshold: Mapped[float]
    #: The content of `model.json`.
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[ModelState] = mapped_column(states(ModelState))
    created_at: Mapped[float] = mapped_column(default=database_now())


class Prediction(Table):
    """The output of one model for one image, with all that explains it years later."""

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
    #: The probability of each type of pneumonia, if the model distinguishes types.
    types: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    threshold: Mapped[float]
    #: The number format of the forward pass.
    precision: Mapped[str] = mapped_column(String(16))
    #: The library, its version and the kind of device.
    runtime: Mapped[str] = mapped_column(String(64))
    preprocessing: Mapped[str] = mapped_column(String(64))
    #: The version of pneumoscreen.
    software: Mapped[str] = mapped_column(String(32))
    #: SHA-256 of the file's bytes.
    input_digest: Mapped[str] = mapped_column(String(64))
    #: The share of pictures of the training hospital, which the model did not learn from, that are less like
    #: its training pictures than this one: 0 to 1. Null if the model cannot tell.
    familiarity: Mapped[float | None]
    #: Why the prediction needs care: codes of cautions, separated by spaces. Null if nothing does.
    caution: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=database_now())


class Acceptance(Table):
    """One measurement of a model on labelled images of this site, with its verdict. Rows are only added."""

    __tablename__ = "acceptances"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    #: Whether every criterion was met.
    accepted: Mapped[bool]
    #: Who measured: the operating system's user, or the name that this user gave.
    by: Mapped[str] = mapped_column(String(200))
    images: Mapped[int]
    #: SHA-256 over the set of (file digest, class) pairs, as `training.data.dataset.fingerprint` makes it.
    data_fingerprint: Mapped[str] = mapped_column(String(64))
    #: The criteria and what was measured, without a path, a name or a UID.
    figures: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Each criterion with its result, in a sentence.
    reasons: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(default=database_now())
