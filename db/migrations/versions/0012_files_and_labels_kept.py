"""Size and date of listed files; the places of labelled images whose rows were archived."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("images", sa.Column("listed_at", sa.Float(53), nullable=True))
    op.add_column("nightly_seen", sa.Column("size", sa.BigInteger(), nullable=True))
    op.add_column("nightly_seen", sa.Column("modified", sa.Float(53), nullable=True))
    op.create_table(
        "kept_images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("instance_uid", sa.String(length=64), nullable=True),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("patient_key", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kept_images")),
    )
    op.create_index(op.f("ix_kept_images_digest"), "kept_images", ["digest"], unique=False)
    op.create_index(op.f("ix_kept_images_instance_uid"), "kept_images", ["instance_uid"], unique=False)
