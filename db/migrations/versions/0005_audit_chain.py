"""The audit log as a chain: each event's digest holds the one before."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("events", sa.Column("sequence", sa.Integer(), nullable=True))
    op.add_column("events", sa.Column("digest", sa.String(length=64), nullable=True))
    op.create_index("uq_events_sequence", "events", ["sequence"], unique=True)
