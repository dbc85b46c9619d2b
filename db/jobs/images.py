"""Adding images to a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import insert_new
from db.jobs.duplicates import skip_duplicates
from db.jobs.ingests import HeldIngest, check_ingest
from db.states import ImageState
from db.tables import Image, Study
from db.transitions import ImageChange

#: The states that an image can be added in.
_ADDED = {one.to: one for one in (ImageChange.ADD, ImageChange.ADD_SKIPPED, ImageChange.ADD_FAILED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """An image that a source lists and that a cohort may not have yet."""

    uri: str
    frame: int = 0
    #: Size in bytes, and time of change in seconds since 1970; None if the source does not tell.
    size: int | None = None
    modified: float | None = None
    #: Time of change in a server's listing.
    listed_at: float | None = None
    #: Study, Series and SOP Instance UID; None for a file that is not DICOM.
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    #: HMAC-SHA256 of the Patient ID under the site's key.
    patient_key: str | None = None
    #: Accession Number; None if the installation does not keep it.
    accession: str | None = None
    #: The code of the problem that was found already; None if the image is to be screened.
    problem: str | None = None
    #: The state that the problem puts it into.
    state: ImageState = ImageState.PENDING


def held_uris(session: Session, cohort_id: int, uris: Sequence[str]) -> set[str]:
    """Return those of these files that a cohort has already."""
    query = select(Image.uri).where(Image.uri.in_(uris), Image.cohort_id == cohort_id)
    return set(session.scalars(query))


def add_images(
    session: Session,
    cohort_id: int,
    images: Sequence[NewImage],
    *,
    ingest: HeldIngest | None = None,
    source_id: int | None = None,
) -> int:
    """Add images of a source that the cohort does not have yet; return how many were new.

    The cohort must be open. A command that reads a source passes its `ingest`.

    Safe to repeat: (cohort, uri, frame) is unique, and existing rows stay as they are. A further copy of a
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
            "state": _ADDED[image.state].to,
            "problem": image.problem,
            "attempts": 0,
        }
        for image in images
    ]
    new = session.scalars(insert_new(session, Image).returning(Image.id), rows).all()
    if new:
        skip_duplicates(session, cohort_id, since=min(new))
    return len(new)


def _study_ids(session: Session, cohort_id: int, images: Iterable[NewImage]) -> dict[str, int]:
    """Return the row ids of the images' studies; missing rows are added."""
    rows = {
        image.study_uid: {
            "cohort_id": cohort_id,
            "study_uid": image.study_uid,
            "patient_key": image.patient_key,
            "accession": image.accession,
        }
        for image in images
        if image.study_uid
    }
    if not rows:
        return {}
    session.execute(insert_new(session, Study), list(rows.values()))
    found = session.execute(
        select(Study.study_uid, Study.id).where(Study.cohort_id == cohort_id, Study.study_uid.in_(list(rows)))
    )
    return {row.study_uid: row.id for row in found}
