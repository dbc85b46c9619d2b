"""Acceptances of models at this site; several versions of one model's weights."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_COLUMNS = "id, name, backbone, weights_digest, threshold, card, state, created_at"


def upgrade() -> None:
    op.create_table(
        "acceptances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("data_fingerprint", sa.String(length=64), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_acceptances_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acceptances")),
    )
    op.create_index(op.f("ix_acceptances_model_id"), "acceptances", ["model_id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("uq_models_weights_digest", "models", type_="unique")
    else:
        _make_models_again()


def _make_models_again() -> None:
    """Replace the table by one without the constraint, which SQLite cannot drop.

    Rows of other tables refer to the table. SQLite checks them at the end of the transaction, and finds the
    models again: they are inserted after the old table is dropped.
    """
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE former_models AS SELECT * FROM models")
    op.drop_table("models")
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("backbone", sa.String(length=32), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=False),
        sa.Column("threshold", sa.Float(precision=53), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "candidate", "champion", "retired",
                name="state", native_enum=False, create_constraint=True, length=16,
            ),
            nullable=False,
        ),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )  # fmt: skip
    op.create_index(
        "uq_models_champion", "models", ["state"], unique=True, sqlite_where=sa.text("state = 'champion'")
    )
    op.execute(f"INSERT INTO models ({_COLUMNS}) SELECT {_COLUMNS} FROM former_models")  # noqa: S608
    op.drop_table("former_models")
