"""The job table."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _states(*states: str) -> sa.Enum:
    return sa.Enum(*states, name="state", native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("backbone", sa.String(length=32), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=False),
        sa.Column("threshold", sa.Float(precision=53), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("state", _states("candidate", "champion", "retired"), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
        sa.UniqueConstraint("weights_digest", name=op.f("uq_models_weights_digest")),
    )
    op.create_index(
        "uq_models_champion",
        "models",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'champion'"),
        postgresql_where=sa.text("state = 'champion'"),
    )
    op.create_table(
        "cohorts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=True),
        sa.Column("state", _states("ingesting", "ready", "cancelled"), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_cohorts_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cohorts")),
        sa.UniqueConstraint("name", name=op.f("uq_cohorts_name")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("state", _states("queued", "running", "done", "split", "cancelled"), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_owner", sa.String(length=200), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.Column("rung_at", sa.Float(precision=53), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name=op.f("ck_batches_lease")),
        sa.ForeignKeyConstraint(
            ["cohort_id"], ["cohorts.id"], name=op.f("fk_batches_cohort_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_batches_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_cohort_id_state"), "batches", ["cohort_id", "state"], unique=False)
    op.create_index(op.f("ix_batches_state_lease_until"), "batches", ["state", "lease_until"], unique=False)
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["cohort_id"], ["cohorts.id"], name=op.f("fk_studies_cohort_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("cohort_id", "study_uid", name=op.f("uq_studies_cohort_id_study_uid")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("series_uid", sa.String(length=64), nullable=True),
        sa.Column("instance_uid", sa.String(length=64), nullable=True),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column(
            "state", _states("pending", "queued", "running", "done", "skipped", "failed"), nullable=False
        ),
        sa.Column("problem", sa.String(length=32), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) <= (batch_id IS NOT NULL)", name=op.f("ck_images_batch")
        ),
        sa.CheckConstraint(
            "(state IN ('skipped', 'failed')) = (problem IS NOT NULL)", name=op.f("ck_images_problem")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_images_batch_id")),
        sa.ForeignKeyConstraint(
            ["cohort_id"], ["cohorts.id"], name=op.f("fk_images_cohort_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_images_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("uri", "frame", "cohort_id", name=op.f("uq_images_uri_frame_cohort_id")),
    )
    op.create_index(op.f("ix_images_batch_id"), "images", ["batch_id"], unique=False)
    op.create_index(
        op.f("ix_images_cohort_id_instance_uid"), "images", ["cohort_id", "instance_uid"], unique=False
    )
    op.create_index(
        op.f("ix_images_cohort_id_state_id"), "images", ["cohort_id", "state", "id"], unique=False
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("label", sa.String(length=32), nullable=False),
        sa.Column("threshold", sa.Float(precision=53), nullable=False),
        sa.Column("precision", sa.String(length=16), nullable=False),
        sa.Column("runtime", sa.String(length=64), nullable=False),
        sa.Column("preprocessing", sa.String(length=64), nullable=False),
        sa.Column("software", sa.String(length=32), nullable=False),
        sa.Column("input_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.CheckConstraint("probability >= 0 AND probability <= 1", name=op.f("ck_predictions_probability")),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_predictions_image_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_predictions_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictions")),
        sa.UniqueConstraint("image_id", "model_id", name=op.f("uq_predictions_image_id_model_id")),
    )
