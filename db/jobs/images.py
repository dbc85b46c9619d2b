"""Adding images to a cohort."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from db.engine import insert_many, on_postgresql
from db.jobs.duplicates import skip_duplicates
from db.jobs.ingests import HeldIngest, check_ingest
from db.states import ImageState
from db.tables import Image, Study
from db.transitions import ImageChange

#: The states that an image can be added in, as they are stored.
_ADDED = {one.to: one.to.value for one in (ImageChange.ADD, ImageChange.ADD_SKIPPED, ImageChange.ADD_FAILED)}

#: The columns of a new image.
_COLUMNS = (
    "cohort_id", "source_id", "study_id", "series_uid", "instance_uid", "uri", "frame", "size", "modified",
    "listed_at", "state", "problem", "attempts",
)  # fmt: skip

#: The images of a cohort in some files: on PostgreSQL, and on SQLite. The names are one parameter, as drivers
#: are slow with many. Each file is looked up by its name. PostgreSQL expects a few rows in a cohort that has
#: grown since its last ANALYZE, and would read them all: so a sum hides the cohort from its indexes, and
#: OFFSET keeps the look-up from becoming a join.
_HELD = {
    True: """
        SELECT held.uri, held.frame
        FROM json_array_elements_text(CAST(:uris AS json)) AS named (uri), LATERAL (
            SELECT uri, frame FROM images
            WHERE images.uri = named.uri AND cohort_id + 0 = :cohort_id OFFSET 0
        ) AS held
    """,
    False: """
        SELECT images.uri, frame FROM json_each(:uris) CROSS JOIN images
        WHERE images.uri = json_each.value AND cohort_id + 0 = :cohort_id
    """,
}

#: The studies of a cohort with some UIDs.
_STUDIES = {
    True: """
        SELECT study_uid, id FROM studies WHERE cohort_id = :cohort_id
        AND study_uid = ANY (ARRAY(SELECT json_array_elements_text(CAST(:uids AS json))))
    """,
    False: """
        SELECT study_uid, id FROM studies WHERE cohort_id = :cohort_id
        AND study_uid IN (SELECT value FROM json_each(:uids))
    """,
}


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
    return {uri for uri, _ in _held(session, cohort_id, uris)}


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
    # It locks the cohort: until the end of this transaction nobody else adds images or studies to it.
    check_ingest(session, cohort_id, ingest)
    new = _unknown(session, cohort_id, images)
    if not new:
        return 0
    studies = _study_ids(session, cohort_id, new)
    last_id = session.scalar(select(func.max(Image.id))) or 0
    rows = [
        (
            cohort_id,
            source_id,
            studies.get(image.study_uid or ""),
            image.series_uid,
            image.instance_uid,
            image.uri,
            image.frame,
            image.size,
            image.modified,
            image.listed_at,
            _ADDED[image.state],
            image.problem,
            0,
        )
        for image in new
    ]
    insert_many(session, Image, _COLUMNS, rows)
    if any(image.instance_uid for image in new):
        skip_duplicates(session, cohort_id, since=last_id + 1)
    return len(rows)


def _unknown(session: Session, cohort_id: int, images: Sequence[NewImage]) -> list[NewImage]:
    """Return the images that a cohort does not have, each once."""
    unknown = {(image.uri, image.frame): image for image in reversed(images)}
    for held in _held(session, cohort_id, [image.uri for image in images]):
        unknown.pop(held, None)
    return list(reversed(unknown.values()))


def _held(session: Session, cohort_id: int, uris: Sequence[str]) -> set[tuple[str, int]]:
    """Return the names and frames of a cohort's images in these files."""
    query = text(_HELD[on_postgresql(session)])
    return {
        (uri, frame)
        for uri, frame in session.execute(query, {"uris": json.dumps(uris), "cohort_id": cohort_id})
    }


def _study_ids(session: Session, cohort_id: int, images: Iterable[NewImage]) -> dict[str, int]:
    """Return the row ids of the images' studies; missing rows are added."""
    studies = {
        image.study_uid: (cohort_id, image.study_uid, image.patient_key, image.accession)
        for image in images
        if image.study_uid
    }
    if not studies:
        return {}
    held = _held_studies(session, cohort_id, list(studies))
    missing = [row for uid, row in studies.items() if uid not in held]
    if not missing:
        return held
    insert_many(session, Study, ("cohort_id", "study_uid", "patient_key", "accession"), missing)
    return _held_studies(session, cohort_id, list(studies))


def _held_studies(session: Session, cohort_id: int, uids: Sequence[str]) -> dict[str, int]:
    query = text(_STUDIES[on_postgresql(session)])
    rows = session.execute(query, {"uids": json.dumps(uids), "cohort_id": cohort_id})
    return {row.study_uid: row.id for row in rows}
