"""Nightly schedules, archives, and the time and memory that batches took."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("decode_seconds", "forward_seconds", "write_seconds"):
        op.add_column("batches", sa.Column(name, sa.Float(precision=53), nullable=True))
    op.add_column("batches", sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("cohorts", sa.Column("nightly", sa.String(length=64), nullable=True))
    op.add_column("cohorts", sa.Column("hold_at", sa.Float(precision=53), nullable=True))
    op.add_column("cohorts", sa.Column("archived", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "nightly_seen",
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("uri", "name", name=op.f("pk_nightly_seen")),
    )
    op.create_index(op.f("ix_cohorts_nightly"), "cohorts", ["nightly"], unique=False)
    op.create_table(
        "nightly_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("slot", sa.Float(precision=53), nullable=False),
        sa.Column("window_ends", sa.Float(precision=53), nullable=True),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "baseline",
                "waiting",
                "ingesting",
                "screening",
                "done",
                "held",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("cohort_id", sa.Integer(), nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.Column("rung_at", sa.Float(precision=53), nullable=True),
        sa.Column("problem", sa.String(length=64), nullable=True),
        sa.Column("summary", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("summarised_at", sa.Float(precision=53), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["cohort_id"], ["cohorts.id"], name=op.f("fk_nightly_runs_cohort_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nightly_runs")),
        sa.UniqueConstraint("name", "slot", name=op.f("uq_nightly_runs_name_slot")),
    )
    op.create_index(op.f("ix_nightly_runs_state"), "nightly_runs", ["state"], unique=False)
