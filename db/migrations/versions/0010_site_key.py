"""The fingerprint of the key that the pseudonyms were made with."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "site",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("key_fingerprint", sa.String(length=64), nullable=False),
    )
