"""Sources of a cohort, and the times of waits of cohorts, sources and batches."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("waits_for", sa.String(length=64), nullable=True),
        sa.Column("waits_since", sa.Float(53), nullable=True),
        sa.Column("try_at", sa.Float(53), nullable=True),
        sa.ForeignKeyConstraint(
            ["cohort_id"], ["cohorts.id"], name="fk_sources_cohort_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_sources"),
        sa.UniqueConstraint("cohort_id", "uri", name="uq_sources_cohort_id_uri"),
    )
    op.add_column("cohorts", sa.Column("waits_since", sa.Float(53), nullable=True))
    # Null in every row: an image of an earlier version counts as one of its cohort's own source.
    op.add_column("images", sa.Column("source_id", sa.Integer(), nullable=True))
    op.execute(
        "ALTER TABLE batches ADD COLUMN source_id INTEGER"
        " CONSTRAINT fk_batches_source_id REFERENCES sources (id)"
    )
    op.add_column("batches", sa.Column("claim_after", sa.Float(53), nullable=True))
    op.create_index(
        "ix_images_pending",
        "images",
        ["cohort_id", "source_id", "id"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
