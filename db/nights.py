"""What a nightly run came to: the figures of its summary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from db.counts import Counts, count_images
from db.states import UNFINISHED, ImageState
from db.tables import Batch, Cohort, Image, ImageCount, NightlyRun, Prediction

#: Bands of P(PNEUMONIA) that positives are counted in, from 0 to 1.
BANDS = 10

#: Positives that a summary lists, the most probable first.
LISTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class NightFigures:
    """One night in numbers. Rows of the job table are given by id."""

    #: Images that the source newly held.
    new: int
    #: Images that got a prediction this night, those that earlier nights had left included.
    done: int
    #: Of the new images, those skipped and failed, by problem code.
    skipped: dict[str, int]
    failed: dict[str, int]
    #: Images of this schedule that are not screened yet.
    left: int
    #: Of `done`, those labelled positive.
    positive: int
    #: Of `positive`, those in each tenth of the probability, from 0 to 1.
    bands: list[int]
    #: Image id and probability of the most probable ones.
    most_probable: list[tuple[int, float]]
    #: From the first batch that was cut to the last that was finished.
    seconds: float
    images_per_second: float | None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def night_figures(session: Session, run: NightlyRun) -> NightFigures:
    """Count what happened between a run's opening and its end."""
    ours = select(Cohort.id).where(Cohort.nightly == run.name)
    # By the time alone, which only a batch that is done has: the schedule has batches of all its nights.
    tonight = Batch.finished_at.between(run.created_at, run.finished_at)
    batches = (
        select(Batch.id).where(tonight, ours.where(Cohort.id == Batch.cohort_id).exists()).scalar_subquery()
    )
    first, last = session.execute(
        select(func.min(Batch.created_at), func.max(Batch.finished_at)).where(Batch.id.in_(batches))
    ).one()
    predicted = (
        select(Prediction.image_id, Prediction.probability, Prediction.threshold)
        .join(Image, Image.id == Prediction.image_id)
        .where(Image.batch_id.in_(batches))
        .subquery()
    )
    done = session.scalars(select(func.count()).select_from(predicted)).one()
    positive = predicted.c.probability >= predicted.c.threshold
    counts = [
        func.count().filter(
            positive,
            predicted.c.probability >= band / BANDS,
            predicted.c.probability < (band + 1) / BANDS if band < BANDS - 1 else true(),
        )
        for band in range(BANDS)
    ]
    bands = list(session.execute(select(*counts).select_from(predicted)).one())
    most = session.execute(
        select(predicted.c.image_id, predicted.c.probability)
        .where(positive)
        .order_by(predicted.c.probability.desc(), predicted.c.image_id)
        .limit(LISTED)
    )
    seconds = 0.0 if first is None or last is None else last - max(first, run.created_at)
    new = count_images(session, [run.cohort_id]).get(run.cohort_id, {}) if run.cohort_id else {}
    left = session.scalars(
        select(func.coalesce(func.sum(ImageCount.images), 0)).where(
            ImageCount.cohort_id.in_(ours), ImageCount.state.in_(UNFINISHED)
        )
    ).one()
    return NightFigures(
        new=sum(new.values()),
        done=done,
        skipped=_problems(new, ImageState.SKIPPED),
        failed=_problems(new, ImageState.FAILED),
        left=left,
        positive=sum(bands),
        bands=bands,
        most_probable=[(image_id, probability) for image_id, probability in most],
        seconds=seconds,
        images_per_second=done / seconds if seconds > 0 else None,
    )


def _problems(counts: Counts, wanted: ImageState) -> dict[str, int]:
    """Return the problems of a state, the most frequent first."""
    found = [(problem, count) for (state, problem), count in counts.items() if state is wanted]
    return dict(sorted(found, key=lambda one: (-one[1], one[0])))
