"""The figures of a nightly run's summary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    and_,
    case,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.orm import Session

from db.states import TERMINAL, UNFINISHED, BatchState, ImageState
from db.tables import Batch, Image, ImageCount, Model, NightlyRun, Prediction
from db.trust.comparison import Comparison, compare_profiles
from db.trust.profile import Profile

#: Bands of P(PNEUMONIA) that positives are counted in, from 0 to 1.
BANDS = 10

#: Positives that a summary lists, the most probable first.
LISTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of some images."""

    #: Images that got a prediction.
    done: int
    #: Images that did not, by problem code.
    skipped: dict[str, int]
    failed: dict[str, int]
    #: Images that have not ended.
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NightFigures:
    """One night in numbers. Rows of the job table are given by id."""

    #: Images that this run added: `done`, `skipped`, `failed` and `left` add up to it.
    new: int
    #: Those of them that got a prediction by the run's end.
    done: int
    #: Those that were skipped and failed, by problem code.
    skipped: dict[str, int]
    failed: dict[str, int]
    #: Those that had not ended.
    left: int
    #: The results, since the run before, of images that earlier runs had left unfinished.
    earlier: Outcome
    #: Of all that got a prediction, those labelled positive.
    positive: int
    #: Of `positive`, those in each tenth of the probability, from 0 to 1.
    bands: list[int]
    #: Image id and probability of the most probable ones.
    most_probable: list[tuple[int, float]]
    #: Of all that got a prediction, those of each model, by its name.
    models: dict[str, int]
    #: What the batches held (`db.trust.profile`), and how familiar that was to the model.
    profile: Profile
    comparison: Comparison | None
    #: From the first batch that was cut to the last that was finished.
    seconds: float
    images_per_second: float | None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        compared = None if self.comparison is None else self.comparison.as_json()
        return asdict(self) | {"profile": self.profile.as_json(), "comparison": compared}


def night_figures(session: Session, run: NightlyRun) -> NightFigures:
    """Count the results of a run, and those of images that earlier runs had left unfinished.

    Each image counts as new in the run that added it. If it ended later, it counts as an earlier one in the
    first run that ended after that.
    """
    own, earlier = _own_batches(run), _earlier_batches(session, run)
    ours = _own_outcome(session, run)
    theirs = _earlier_outcome(session, run, earlier)
    batches = select(Batch.id).where(Batch.state == BatchState.DONE, or_(own, earlier)).scalar_subquery()
    first, last = session.execute(
        select(func.min(Batch.created_at), func.max(Batch.finished_at)).where(Batch.id.in_(batches))
    ).one()
    seconds = 0.0 if first is None or last is None else max(0.0, last - max(first, run.created_at))
    done = ours.done + theirs.done
    positives = _positives(session, batches)
    profiles = _profiles(session, batches)
    return NightFigures(
        new=ours.done + sum(ours.skipped.values()) + sum(ours.failed.values()) + ours.left,
        done=ours.done,
        skipped=ours.skipped,
        failed=ours.failed,
        left=ours.left,
        earlier=theirs,
        positive=sum(positives[0]),
        bands=positives[0],
        most_probable=positives[1],
        models=_models(session, batches),
        profile=sum(profiles.values(), Profile()),
        comparison=compare_profiles(session, profiles),
        seconds=seconds,
        images_per_second=done / seconds if seconds > 0 else None,
    )


def _own_batches(run: NightlyRun) -> ColumnElement[bool]:
    """Match the batches of the run's own images that were finished by its end."""
    return and_(Batch.cohort_id == run.cohort_id, Batch.finished_at <= run.finished_at)


def _earlier_runs(run: NightlyRun) -> ColumnElement[bool]:
    """Match the schedule's runs that ended before this one."""
    before = or_(
        NightlyRun.finished_at < run.finished_at,
        and_(NightlyRun.finished_at == run.finished_at, NightlyRun.id < run.id),
    )
    return and_(NightlyRun.name == run.name, before)


def _earlier_cohorts(run: NightlyRun) -> Select[int | None]:
    return select(NightlyRun.cohort_id).where(_earlier_runs(run), NightlyRun.cohort_id.is_not(None))


def _earlier_batches(session: Session, run: NightlyRun) -> ColumnElement[bool]:
    """Match the batches of earlier runs' images that were finished after the last of these had ended."""
    since = session.scalar(select(func.max(NightlyRun.finished_at)).where(_earlier_runs(run)))
    # Not a join: the time has to select first, because the schedule has batches of all its nights.
    return and_(
        _earlier_cohorts(run).where(NightlyRun.cohort_id == Batch.cohort_id).exists(),
        Batch.finished_at > (since or 0.0),
        Batch.finished_at <= run.finished_at,
    )


def _own_outcome(session: Session, run: NightlyRun) -> Outcome:
    """Return the results of the run's own images by its end."""
    late = case((Batch.finished_at > run.finished_at, True), else_=False).label("late")
    rows = session.execute(
        select(Image.state, Image.problem, late, func.count())
        .outerjoin(Batch, Batch.id == Image.batch_id)
        .where(Image.cohort_id == run.cohort_id)
        .group_by(Image.state, Image.problem, "late")
    ).all()
    ended = [(state, problem, count) for state, problem, late, count in rows if not late]
    return _outcome(ended, sum(count for *_, late, count in rows if late))


def _earlier_outcome(session: Session, run: NightlyRun, batches: ColumnElement[bool]) -> Outcome:
    """Return the results of earlier runs' images in these batches, and how many have not ended yet."""
    rows = session.execute(
        select(Image.state, Image.problem, func.count())
        .where(Image.batch_id.in_(select(Batch.id).where(batches)), Image.state.in_(TERMINAL))
        .group_by(Image.state, Image.problem)
    ).all()
    unfinished = and_(ImageCount.cohort_id.in_(_earlier_cohorts(run)), ImageCount.state.in_(UNFINISHED))
    left = select(func.coalesce(func.sum(ImageCount.images), 0)).where(unfinished)
    return _outcome(rows, int(session.scalars(left).one()))


def _outcome(rows: Iterable[tuple[ImageState, str | None, int]], left: int) -> Outcome:
    """Return counts by state and problem as an outcome, the most frequent problems first."""
    counts: dict[ImageState, dict[str, int]] = {state: {} for state in ImageState}
    for state, problem, count in sorted(rows, key=lambda row: (-row[2], row[1] or "")):
        counts[state][problem or ""] = count
    return Outcome(
        done=sum(counts[ImageState.DONE].values()),
        skipped=counts[ImageState.SKIPPED],
        failed=counts[ImageState.FAILED],
        left=left + sum(count for state in UNFINISHED for count in counts[state].values()),
    )


def _predicted(batches: ScalarSelect[int], *columns: Any) -> Select[Any]:
    """Select from the predictions that these batches made, and not from those of other models."""
    return (
        select(*columns)
        .join(Image, Image.id == Prediction.image_id)
        .join(Batch, and_(Batch.id == Image.batch_id, Batch.model_id == Prediction.model_id))
        .where(Image.batch_id.in_(batches))
    )


def _models(session: Session, batches: ScalarSelect[int]) -> dict[str, int]:
    """Return how many predictions of these batches each model made."""
    made = _predicted(batches, Prediction.model_id, func.count().label("made"))
    made_by = made.group_by(Prediction.model_id).subquery()
    rows = session.execute(
        select(Model.name, made_by.c.made).join(made_by, made_by.c.model_id == Model.id).order_by(Model.name)
    )
    return {name: count for name, count in rows}  # noqa: C416  (a Result has keys, and is no mapping)


def _profiles(session: Session, batches: ScalarSelect[int]) -> dict[int, Profile]:
    """Return the profile of the batches of each model, by its row id."""
    query = select(Batch.model_id, Batch.profile).where(Batch.id.in_(batches), Batch.profile.is_not(None))
    profiles: defaultdict[int, Profile] = defaultdict(Profile)
    for model_id, profile in session.execute(query):
        profiles[model_id] += Profile(**profile)
    return profiles


def _positives(session: Session, batches: ScalarSelect[int]) -> tuple[list[int], list[tuple[int, float]]]:
    """Return how many positives of these batches are in each band, and the most probable ones."""
    positive = Prediction.probability >= Prediction.threshold
    predicted = _predicted(batches, Prediction.image_id, Prediction.probability).where(positive).subquery()
    counts = [
        func.count().filter(
            predicted.c.probability >= band / BANDS,
            predicted.c.probability < (band + 1) / BANDS if band < BANDS - 1 else true(),
        )
        for band in range(BANDS)
    ]
    most = session.execute(
        select(predicted.c.image_id, predicted.c.probability)
        .order_by(predicted.c.probability.desc(), predicted.c.image_id)
        .limit(LISTED)
    )
    bands = session.execute(select(*counts).select_from(predicted)).one()
    return list(bands), [(image_id, probability) for image_id, probability in most]
