"""Counters of images that the database keeps, totals of ended batches, and missing indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

#: A row-level trigger adds to one row: SQLite has one writer at a time.
SQLITE = (
    """
    CREATE TRIGGER image_counts_insert AFTER INSERT ON images BEGIN
        INSERT INTO image_counts (cohort_id, state, problem, shard, images)
        VALUES (NEW.cohort_id, NEW.state, coalesce(NEW.problem, ''), 0, 1)
        ON CONFLICT (cohort_id, state, problem, shard) DO UPDATE SET images = images + 1;
    END
    """,
    """
    CREATE TRIGGER image_counts_delete AFTER DELETE ON images BEGIN
        INSERT INTO image_counts (cohort_id, state, problem, shard, images)
        VALUES (OLD.cohort_id, OLD.state, coalesce(OLD.problem, ''), 0, -1)
        ON CONFLICT (cohort_id, state, problem, shard) DO UPDATE SET images = images - 1;
    END
    """,
    """
    CREATE TRIGGER image_counts_update AFTER UPDATE OF cohort_id, state, problem ON images
    WHEN OLD.state <> NEW.state OR OLD.problem IS NOT NEW.problem OR OLD.cohort_id <> NEW.cohort_id
    BEGIN
        INSERT INTO image_counts (cohort_id, state, problem, shard, images)
        VALUES (OLD.cohort_id, OLD.state, coalesce(OLD.problem, ''), 0, -1)
        ON CONFLICT (cohort_id, state, problem, shard) DO UPDATE SET images = images - 1;
        INSERT INTO image_counts (cohort_id, state, problem, shard, images)
        VALUES (NEW.cohort_id, NEW.state, coalesce(NEW.problem, ''), 0, 1)
        ON CONFLICT (cohort_id, state, problem, shard) DO UPDATE SET images = images + 1;
    END
    """,
)

#: Each statement appends what it changed under a shard of its own: transactions that run side by side neither
#: wait for one row nor deadlock over two.
POSTGRESQL = (
    "CREATE SEQUENCE image_counts_shard OWNED BY image_counts.shard",
    """
    CREATE OR REPLACE FUNCTION count_images() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO image_counts (cohort_id, state, problem, shard, images)
            SELECT cohort_id, state, coalesce(problem, ''), nextval('image_counts_shard'), count(*)
            FROM added GROUP BY cohort_id, state, problem;
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO image_counts (cohort_id, state, problem, shard, images)
            SELECT cohort_id, state, coalesce(problem, ''), nextval('image_counts_shard'), -count(*)
            FROM removed GROUP BY cohort_id, state, problem;
        ELSE
            INSERT INTO image_counts (cohort_id, state, problem, shard, images)
            SELECT cohort_id, state, coalesce(problem, ''), nextval('image_counts_shard'), sum(change)
            FROM (
                SELECT cohort_id, state, problem, 1 AS change FROM added
                UNION ALL
                SELECT cohort_id, state, problem, -1 FROM removed
            ) AS changes
            GROUP BY cohort_id, state, problem HAVING sum(change) <> 0;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER image_counts_insert AFTER INSERT ON images
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_images()
    """,
    """
    CREATE TRIGGER image_counts_delete AFTER DELETE ON images
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION count_images()
    """,
    """
    CREATE TRIGGER image_counts_update AFTER UPDATE ON images
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_images()
    """,
)


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    _image_counts(POSTGRESQL if postgresql else SQLITE)
    _batch_totals()
    # Without it, each study that is deleted costs a look at every image. Most images of a folder have none.
    op.create_index(
        op.f("ix_images_study_id"), "images", ["study_id"],
        sqlite_where=sa.text("study_id IS NOT NULL"), postgresql_where=sa.text("study_id IS NOT NULL"),
    )  # fmt: skip
    op.create_index(op.f("ix_batches_finished_at"), "batches", ["finished_at"])
    op.create_index(op.f("ix_labels_created_at"), "labels", ["created_at"])
    op.create_index(op.f("ix_training_runs_state"), "training_runs", ["state"])
    op.create_index(
        "ix_nightly_runs_unsummarised", "nightly_runs", ["state"],
        sqlite_where=sa.text("summarised_at IS NULL"), postgresql_where=sa.text("summarised_at IS NULL"),
    )  # fmt: skip


def _image_counts(triggers: tuple[str, ...]) -> None:
    op.create_table(
        "image_counts",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending", "queued", "running", "done", "skipped", "failed",
                name="state", native_enum=False, create_constraint=True, length=16,
            ),
            nullable=False,
        ),
        sa.Column("problem", sa.String(length=32), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("cohort_id", "state", "problem", "shard", name=op.f("pk_image_counts")),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_index(op.f("ix_image_counts_state_cohort_id"), "image_counts", ["state", "cohort_id"])
    op.create_index(
        "ix_image_counts_to_fold", "image_counts", ["cohort_id"],
        sqlite_where=sa.text("shard <> 0 OR images = 0"),
        postgresql_where=sa.text("shard <> 0 OR images = 0"),
    )  # fmt: skip
    # From here on PostgreSQL lets nobody else write images until this is committed: none is missed.
    for statement in triggers:
        op.execute(statement)
    op.execute(
        "INSERT INTO image_counts (cohort_id, state, problem, shard, images) "
        "SELECT cohort_id, state, coalesce(problem, ''), 0, count(*) FROM images "
        "GROUP BY cohort_id, state, problem"
    )


def _batch_totals() -> None:
    op.add_column("batches", sa.Column("lost", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE batches SET lost = CASE WHEN attempt > 1 THEN attempt - 1 ELSE 0 END"
        " + CASE WHEN state = 'split' THEN 1 ELSE 0 END WHERE attempt > 1 OR state = 'split'"
    )
    op.create_index(
        "ix_batches_uncounted", "batches", ["state"],
        sqlite_where=sa.text("counted = 0"), postgresql_where=sa.text("NOT counted"),
    )  # fmt: skip
    op.create_table(
        "batch_totals",
        sa.Column(
            "state",
            sa.Enum(
                "queued", "running", "done", "split", "cancelled",
                name="state", native_enum=False, create_constraint=True, length=16,
            ),
            nullable=False,
        ),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("decode_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("forward_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("write_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("pruned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("state", name=op.f("pk_batch_totals")),
    )  # fmt: skip
