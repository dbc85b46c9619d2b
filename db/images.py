"""Taking images into a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Insert, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from db.problems import DuplicateInstance
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
    #: Study, Series and SOP Instance UID; None for what is not DICOM.
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    #: HMAC-SHA256 of the Patient ID.
    patient_key: str | None = None
    #: The code of what stands in the way already; None lets it be screened.
    problem: str | None = None
    state: ImageState = ImageState.PENDING


def add_images(
    session: Session, cohort_id: int, images: Sequence[NewImage], *, source_id: int | None = None
) -> int:
    """Add images of a source that the cohort does not hold yet; return how many were new.

    Safe to repeat: (cohort, uri, frame) is unique, and what is there stays as it is. A SOP Instance
    that the cohort holds already gets a row too, skipped as `duplicate-instance`.
    """
    if not images:
        return 0
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
            "state": image.state,
            "problem": image.problem,
            "attempts": 0,
        }
        for image in images
    ]
    new = session.scalars(_insert_ignoring(session, Image).returning(Image.id), rows).all()
    _skip_duplicates(session, cohort_id, new)
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


def _skip_duplicates(session: Session, cohort_id: int, new: Sequence[int]) -> None:
    """Skip those of the new images whose SOP Instance an earlier row of the cohort holds."""
    if not new:
        return
    earlier = aliased(Image)
    held = exists().where(
        earlier.cohort_id == Image.cohort_id,
        earlier.instance_uid == Image.instance_uid,
        earlier.frame == Image.frame,
        earlier.id < Image.id,
    )
    session.execute(
        update(Image)
        .where(
            Image.cohort_id == cohort_id,
            Image.id >= min(new),
            Image.state == ImageState.PENDING,
            Image.instance_uid.is_not(None),
            held,
        )
        .values(state=ImageState.SKIPPED, problem=DuplicateInstance.code)
        .execution_options(synchronize_session=False)
    )
