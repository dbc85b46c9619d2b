"""Archiving of finished cohorts: the rows of an archive, and their removal from the job table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortArchived, lock_cohort
from db.nights.seen import keep_seen
from db.queries.counts import cohorts_with
from db.queries.progress import Progress, progress
from db.queries.results import image_chunks
from db.states import UNFINISHED, CohortState
from db.tables import Cohort, Image, Model, Prediction, Study
from db.training.labels import keep_labelled
from db.upkeep.ended_batches import remove_batches


class CohortNotFinished(PneumoscreenError):
    """Images of the cohort are still to be screened, so it is not archived. Wait until it is finished."""

    code = "cohort-not-finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The state of a finished cohort. It differs as soon as an image is retried, screened or added."""

    counts: Progress
    #: Rows in an archive: one per image and prediction.
    rows: int
    #: How often workers have claimed its images, summed up.
    attempts: int
    newest_prediction: int


def cohorts_to_archive(session: Session, *, older_than_seconds: float) -> Sequence[Cohort]:
    """Return the finished cohorts that were submitted at least so long ago and are not archived."""
    query = select(Cohort).where(
        Cohort.created_at < database_now() - older_than_seconds,
        Cohort.archived.is_(None),
        Cohort.state != CohortState.INGESTING,
        Cohort.id.not_in(cohorts_with(*UNFINISHED)),
    )
    return session.scalars(query.order_by(Cohort.id)).all()


def archivable(session: Session, *, older_than_seconds: float) -> list[Stamp]:
    """Return the stamps of the cohorts that would be archived now. Nothing is changed."""
    stamps = []
    for cohort in cohorts_to_archive(session, older_than_seconds=older_than_seconds):
        # Its counters say that it is finished, and its images do not.
        with suppress(CohortNotFinished):
            stamps.append(stamp(session, cohort.id))
    return stamps


def archive_rows(session: Session, cohort_id: int) -> Iterator[dict[str, Any]]:
    """Yield all data of a cohort's images: a row per image and prediction."""
    for image_ids in image_chunks(session, cohort_id):
        for row in session.execute(_archive_rows(image_ids)).mappings():
            yield dict(row)


def _archive_rows(image_ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    return (
        select(
            Image.id.label("image"),
            Study.study_uid.label("study"),
            Study.patient_key.label("patient"),
            Image.series_uid.label("series"),
            Image.instance_uid.label("instance"),
            Image.uri.label("source"),
            Image.frame,
            Image.digest,
            Image.state,
            Image.problem.label("error"),
            Prediction.probability,
            Prediction.label,
            Prediction.threshold,
            Prediction.types,
            Model.name.label("model"),
            Model.weights_digest,
            Prediction.precision,
            Prediction.runtime,
            Prediction.preprocessing,
            Prediction.software,
            Prediction.input_digest,
            Prediction.familiarity,
            Prediction.caution,
            Prediction.created_at.label("predicted_at"),
            Study.accession,
        )
        .outerjoin(Study, Study.id == Image.study_id)
        .outerjoin(Prediction, Prediction.image_id == Image.id)
        .outerjoin(Model, Model.id == Prediction.model_id)
        .where(Image.id.in_(image_ids))
        .order_by(Image.id, Prediction.id)
    )


def stamp(session: Session, cohort_id: int) -> Stamp:
    """Return the stamp of a finished cohort. Raises CohortNotFinished, CohortArchived."""
    (counts,) = progress(session, [session.get_one(Cohort, cohort_id).name])
    if counts.archived:
        raise CohortArchived
    left = select(Image.id).where(Image.cohort_id == cohort_id, Image.state.in_(UNFINISHED)).limit(1)
    # Its rows will be deleted: the images themselves are checked too, not the counters alone.
    if not counts.finished or session.scalar(left) is not None:
        raise CohortNotFinished
    query = (
        select(
            func.count(),
            func.coalesce(func.sum(Image.attempts), 0),
            func.coalesce(func.max(Prediction.id), 0),
        )
        .select_from(Image)
        .outerjoin(Prediction, Prediction.image_id == Image.id)
        .where(Image.cohort_id == cohort_id)
    )
    rows, attempts, newest = session.execute(query).one()
    return Stamp(counts=counts, rows=rows, attempts=attempts, newest_prediction=newest)


def remove_rows(session: Session, cohort_id: int, stamped: Stamp, *, file: str, digest: str) -> None:
    """Delete the rows of a cohort that is in an archive; its name and its counts stay.

    `stamped` is its stamp when the archive was written. `file` is the archive's name without its folder, and
    `digest` the archive's SHA-256; the audit log keeps both. A nightly schedule still knows the cohort's
    files, and training still finds the images that have labels. Raises CohortNotFinished if the stamp has
    changed, CohortArchived.
    """
    cohort = lock_cohort(session, cohort_id)
    if stamp(session, cohort_id) != stamped:
        raise CohortNotFinished
    if cohort.nightly is not None:
        keep_seen(session, cohort_id, cohort.nightly)
    keep_labelled(session, cohort_id)
    cohort.archived = {
        name: value
        for name, value in asdict(stamped.counts).items()
        if name not in ("archived", "ingest_broke_off")
    }
    of_cohort = select(Image.id).where(Image.cohort_id == cohort_id)
    session.execute(delete(Prediction).where(Prediction.image_id.in_(of_cohort)))
    for table in (Image, Study):
        session.execute(delete(table).where(table.cohort_id == cohort_id))
    remove_batches(session, cohort_id)
    record(session, "cohort.archive", f"cohort:{cohort_id}", rows=stamped.rows, file=file, digest=digest)
