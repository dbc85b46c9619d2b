"""The index of a cohort's batches by state: it has their ids in order too."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_index(
        op.f("ix_batches_cohort_id_state_id"), "batches", ["cohort_id", "state", "id"], unique=False
    )
    op.drop_index(op.f("ix_batches_cohort_id_state"), "batches")
