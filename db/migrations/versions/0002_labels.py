"""Labels: readers' findings in images."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("instance_uid", sa.String(length=64), nullable=True),
        sa.Column("uri", sa.String(), nullable=True),
        sa.Column("patient_key", sa.String(length=64), nullable=True),
        sa.Column(
            "class_name",
            sa.Enum(
                "NORMAL",
                "PNEUMONIA",
                "BACTERIAL",
                "VIRAL",
                name="class",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("read_on", sa.String(length=10), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.CheckConstraint(
            "digest IS NOT NULL OR instance_uid IS NOT NULL", name=op.f("ck_labels_reference")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
        sa.UniqueConstraint(
            "digest",
            "class_name",
            "reader",
            "read_on",
            name=op.f("uq_labels_digest_class_name_reader_read_on"),
        ),
        sa.UniqueConstraint(
            "instance_uid",
            "class_name",
            "reader",
            "read_on",
            name=op.f("uq_labels_instance_uid_class_name_reader_read_on"),
        ),
    )
