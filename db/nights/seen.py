"""Files that a nightly schedule has seen: taken in, archived, or looked at and found to be no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.tables import Cohort, Image, NightlySeen

#: Both dialects' INSERT knows ON CONFLICT.
Insert = postgresql.Insert | sqlite.Insert


class Stamp(NamedTuple):
    """What tells a file from the one that it was: bytes, and time of the last change; None if not known."""

    size: int | None
    modified: float | None

    def may_be(self, other: Stamp) -> bool:
        """Tell whether nothing that both know differs."""
        pairs = zip(self, other, strict=True)
        return all(ours is None or theirs is None or ours == theirs for ours, theirs in pairs)


def seen_uris(session: Session, name: str, listed: Mapping[str, Stamp]) -> set[str]:
    """Return those listed files that a schedule has seen and that have not changed since."""
    # Not a join: SQLite would look for each file in each cohort that the schedule ever had.
    ours = select(Cohort.id).where(Cohort.id == Image.cohort_id, Cohort.nightly == name).exists()
    taken = select(Image.uri, Image.size, func.coalesce(Image.modified, Image.listed_at)).where(
        Image.uri.in_(listed), ours
    )
    seen = select(NightlySeen.uri, NightlySeen.size, NightlySeen.modified).where(
        NightlySeen.uri.in_(listed), NightlySeen.name == name
    )
    rows = (*session.execute(taken), *session.execute(seen))
    return {uri for uri, *stamp in rows if Stamp(*stamp).may_be(listed[uri])}


def note_seen(session: Session, name: str, listed: Mapping[str, Stamp]) -> None:
    """Remember files that are no images, so that they are not opened again before they change."""
    rows = [{"uri": uri, "name": name, **stamp._asdict()} for uri, stamp in listed.items()]
    if rows:
        session.execute(_replacing(_insert(session)), rows)


def keep_seen(session: Session, cohort_id: int, name: str) -> None:
    """Remember the files of a schedule's cohort whose rows are about to be deleted."""
    modified = func.coalesce(Image.modified, Image.listed_at)
    files = (
        select(Image.uri, literal(name), func.max(Image.size), func.max(modified))
        .where(Image.cohort_id == cohort_id)
        .group_by(Image.uri)
    )
    session.execute(_replacing(_insert(session).from_select(["uri", "name", "size", "modified"], files)))


def _insert(session: Session) -> Insert:
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(NightlySeen)
    return sqlite.insert(NightlySeen)


def _replacing(insert: Insert) -> Insert:
    """Let the latest word on a file replace the earlier."""
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=["uri", "name"], set_={"size": new.size, "modified": new.modified}
    )
