"""The reason why a cohort waits; size and date of files when they were added."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("cohorts", sa.Column("waits_for", sa.String(length=64), nullable=True))
    op.add_column("images", sa.Column("size", sa.BigInteger(), nullable=True))
    op.add_column("images", sa.Column("modified", sa.Float(53), nullable=True))
