"""Files that a nightly schedule need not open again, and how it recognises a changed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from db.engine import Upsert, upsert
from db.tables import Cohort, Image, NightlySeen


class Stamp(NamedTuple):
    """What shows that a file was changed: its size in bytes and its time of change; None if unknown."""

    size: int | None
    modified: float | None

    def may_be(self, other: Stamp) -> bool:
        """Tell whether the values that both stamps have are equal."""
        pairs = zip(self, other, strict=True)
        return all(ours is None or theirs is None or ours == theirs for ours, theirs in pairs)


def seen_uris(session: Session, name: str, listed: Mapping[str, Stamp]) -> set[str]:
    """Return those listed files that a schedule has seen and that have not changed since."""
    # Not a join: SQLite would look up each file in every cohort of the schedule.
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
    """Note files that are not images, so that they are not opened again before they change."""
    rows = [{"uri": uri, "name": name, **stamp._asdict()} for uri, stamp in listed.items()]
    if rows:
        session.execute(_replacing(upsert(session, NightlySeen)), rows)


def keep_seen(session: Session, cohort_id: int, name: str) -> None:
    """Note the files of a schedule's cohort before its rows are deleted."""
    modified = func.coalesce(Image.modified, Image.listed_at)
    files = (
        select(Image.uri, literal(name), func.max(Image.size), func.max(modified))
        .where(Image.cohort_id == cohort_id)
        .group_by(Image.uri)
    )
    session.execute(
        _replacing(upsert(session, NightlySeen).from_select(["uri", "name", "size", "modified"], files))
    )


def _replacing(insert: Upsert) -> Upsert:
    """Let a newer row of a file replace the older one."""
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=["uri", "name"], set_={"size": new.size, "modified": new.modified}
    )
