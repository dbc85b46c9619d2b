"""How familiar each picture was to its model, why a prediction needs care, and what each batch held."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("predictions", sa.Column("familiarity", sa.Float(53), nullable=True))
    op.add_column("predictions", sa.Column("caution", sa.String(length=64), nullable=True))
    op.add_column("batches", sa.Column("profile", sa.JSON(none_as_null=True), nullable=True))
