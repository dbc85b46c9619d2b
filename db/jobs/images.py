"""Taking images into a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.jobs.duplicates import skip_duplicates
from db.jobs.ingests import IngestLease, check_ingest
from db.states import ImageState
from db.tables import Image, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """An image as a source found it."""

    uri: str
    frame: int = 0
    #: Bytes, and time of the last change in seconds since 1970; None where the source does not say.
    size: int | None = None
    modified: float | None = None
    #: Time of the last change as a server's listing gave it.
    listed_at: float | None = None
    #: Study, Series and SOP Instance UID; None for what is not DICOM.
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    #: HMAC-SHA256 of the Patient ID.
    patient_key: str | None = None
    #: The code of what stands in the way already; None lets it be screened.
    problem: str | None = None
    state: ImageState = ImageState.PENDING


def held_uris(session: Session, cohort_id: int, uris: Sequence[str]) -> set[str]:
    """Return those of these files that a cohort holds already."""
    query = select(Image.uri).where(Image.uri.in_(uris), Image.cohort_id == cohort_id)
    return set(session.scalars(query))


def add_images(
    session: Session,
    cohort_id: int,
    images: Sequence[NewImage],
    *,
    ingest: IngestLease | None = None,
    source_id: int | None = None,
) -> int:
    """Add images of a source that the cohort does not hold yet; return how many were new.

    The cohort has to be open; a command that walks a source shows its `ingest`.

    Safe to repeat: (cohort, uri, frame) is unique, and what is there stays as it is. Another copy of a
    SOP Instance gets a row too, skipped as `duplicate-instance` unless the earlier copies have failed.
    Raises CohortArchived, CohortCancelled, CohortClosed, IngestTakenOver.
    """
    if not images:
        return 0
    check_ingest(session, cohort_id, ingest)
    studies = _study_ids(session, cohort_id, images)
    rows = [
        {
            "cohort_id": cohort_id,
            "source_id": source_id,
            "study_id": studies.get(image.study_uid or ""),
            "series_uid": image.series_uid,
            "instance_uid": image.instance_uid,
            "uri": image.uri,
            "frame": image.frame,
            "size": image.size,
            "modified": image.modified,
            "listed_at": image.listed_at,
            "state": image.state,
            "problem": image.problem,
            "attempts": 0,
        }
        for image in images
    ]
    new = session.scalars(_insert_ignoring(session, Image).returning(Image.id), rows).all()
    if new:
        skip_duplicates(session, cohort_id, since=min(new))
    return len(new)


def _insert_ignoring(session: Session, table: type[Image | Study]) -> Insert:
    """Return an INSERT that passes over rows which break a unique constraint."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert: Insert = dialect.insert(table).on_conflict_do_nothing()
    return insert


def _study_ids(session: Session, cohort_id: int, images: Iterable[NewImage]) -> dict[str, int]:
    """Return the row ids of the images' studies, adding those that the cohort does not hold yet."""
    patients = {image.study_uid: image.patient_key for image in images if image.study_uid}
    if not patients:
        return {}
    rows = [{"cohort_id": cohort_id, "study_uid": uid, "patient_key": key} for uid, key in patients.items()]
    session.execute(_insert_ignoring(session, Study), rows)
    found = session.execute(
        select(Study.study_uid, Study.id).where(
            Study.cohort_id == cohort_id, Study.study_uid.in_(list(patients))
        )
    )
    return {row.study_uid: row.id for row in found}
