"""Cohorts in tests whose pictures have a familiarity: the rows that workers would write."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, claim, complete
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.models.predictions import Acquisition, Provenance, Screened
from db.tables import Model

#: Held-out pictures of the training hospital that the test models' familiarities are ranks among.
HELD_OUT = 400

PROVENANCE = Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s")
EFFORT = Effort(decode_seconds=0.5, forward_seconds=1.5, gpu_memory_bytes=None)


def spread(count: int, *, most: float = 1.0) -> list[float]:
    """Return familiarities that are spread evenly from 0 to `most`."""
    return [most * (number + 0.5) / count for number in range(count)]


def know_familiarity(database: Database) -> None:
    """Let the cards of all models say that familiarities are ranks among `HELD_OUT` pictures."""
    familiarity = {"digest": "0" * 64, "images": 2 * HELD_OUT, "held_out": HELD_OUT}
    with database.write() as session:
        for model in session.scalars(select(Model)):
            model.card = model.card | {"familiarity": familiarity}


def screened(
    familiarities: Sequence[float | None], *, first: int = 1, acquisition: Acquisition | None = None
) -> list[Screened]:
    """Return predictions with these familiarities, of the images with ids from `first` on."""
    return [
        Screened(
            image_id=number, probability=0.25, label="NORMAL", precision="fp32", input_digest="d",
            familiarity=familiarity, acquisition=acquisition,
            caution="unfamiliar" if familiarity is not None and familiarity < 0.01 else None,
        )
        for number, familiarity in enumerate(familiarities, first)
    ]  # fmt: skip


def screen(
    database: Database,
    name: str,
    familiarities: Sequence[float | None],
    *,
    acquisition: Acquisition | None = None,
    batch_images: int = 256,
) -> int:
    """Add as many images to a cohort as there are familiarities, and screen them; return the cohort's id."""
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data")
        images = [NewImage(uri=f"/data/{name}/{number}.png") for number in range(len(familiarities))]
        assert add_images(session, cohort.id, images) == len(familiarities)
        mark_ready(session, cohort.id)
        batch_ids = cut_batches(session, cohort.id, batch_images=batch_images, in_flight=1000)
    left = list(familiarities)
    for batch_id in batch_ids:
        with database.write() as session:
            claimed = claim(session, batch_id, owner="host:1", lease_seconds=60)
            assert claimed is not None
            theirs, left = left[: len(claimed.images)], left[len(claimed.images) :]
            done = screened(theirs, first=claimed.images[0].image_id, acquisition=acquisition)
            complete(session, claimed, done, [], PROVENANCE, EFFORT)
    return cohort.id
