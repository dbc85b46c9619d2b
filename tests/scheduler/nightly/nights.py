"""Nightly runs in tests: schedules, walks, and the rows that workers would write."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from db.engine import Database
from db.nights.runs import conclude_nights, find_night, now
from db.states import ImageState
from db.tables import Batch, Image, Model, Prediction
from db.trust.profile import Profile
from scheduler.nightly.conclusion import summarise
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.slots import run_now

DAY = 86_400.0
MADRID = Nightly(name="ward", source="/x", cron="30 2 * * *", time_zone="Europe/Madrid", until=dt.time(7))


def moment(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Madrid")).timestamp()


def settings(*schedules: Nightly) -> NightlySettings:
    return NightlySettings(nightly=schedules, nightly_retry_seconds=300)


def walk(database: Database, schedule: Nightly) -> int:
    """Walk a schedule's source once and return the run."""
    run_id = run_now(database, schedule)
    assert walk_night(database, settings(schedule), run_id)
    return run_id


def taken_in(database: Database, run_id: int) -> list[str]:
    """Return the names of the files that a run took in."""
    with database.read() as session:
        cohort_id = find_night(session, run_id).cohort_id
        uris = session.scalars(select(Image.uri).where(Image.cohort_id == cohort_id).order_by(Image.id))
        return [Path(uri).name for uri in uris]


def screen(
    database: Database, run_id: int, probabilities: list[float], profile: Profile | None = None
) -> None:
    """Write the rows that workers would write, and end the run."""
    finish(database, run_id, probabilities, profile)
    with database.write() as session:
        assert conclude_nights(session) == [run_id]


def finish(
    database: Database, run_id: int, probabilities: list[float], profile: Profile | None = None
) -> None:
    """Write the rows that workers would write: predictions for the first images, failures for the rest."""
    with database.write() as session:
        run = find_night(session, run_id)
        # The batch took two seconds, the run took a minute, and both end now.
        if run.finished_at is None:
            run.created_at -= 60
        ended = now(session)
        model_id = session.scalars(select(Model.id)).one()
        batch = Batch(
            cohort_id=run.cohort_id, model_id=model_id, state="done", size=len(probabilities),
            created_at=ended - 2, finished_at=ended,
            profile=None if profile is None else profile.as_json(),
        )  # fmt: skip
        session.add(batch)
        session.flush()
        images = session.scalars(
            select(Image).where(Image.cohort_id == run.cohort_id).order_by(Image.id)
        ).all()
        for image, probability in zip(images, probabilities, strict=False):
            image.state, image.batch_id = ImageState.DONE, batch.id
            session.add(
                Prediction(
                    image_id=image.id, model_id=model_id, probability=probability, threshold=0.5,
                    label="PNEUMONIA" if probability >= 0.5 else "NORMAL", precision="fp32", runtime="r",
                    preprocessing="p", software="s", input_digest="0" * 64,
                )
            )  # fmt: skip
        for image in images[len(probabilities) :]:
            image.state, image.problem, image.batch_id = ImageState.FAILED, "corrupt-image", batch.id


def end(database: Database, schedule: Nightly, run_id: int) -> dict[str, Any]:
    """Write a run's summary, check that its figures add up, and return them."""
    summarise(database, settings(schedule), run_id)
    with database.read() as session:
        figures = find_night(session, run_id).summary
    assert figures is not None
    ended = figures["done"] + sum(figures["skipped"].values()) + sum(figures["failed"].values())
    assert figures["new"] == ended + figures["left"]
    return figures
