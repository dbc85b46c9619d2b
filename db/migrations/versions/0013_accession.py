"""Accession numbers of studies, for installations that keep them."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("studies", sa.Column("accession", sa.String(length=64), nullable=True))
