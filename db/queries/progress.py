"""How far each cohort has come: its images by state and problem, and what it waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clock import database_now
from db.jobs.cohorts import CohortUnknown
from db.queries.counts import Counts, count_images
from db.states import UNFINISHED, CohortState, ImageState, IngestState
from db.tables import Cohort, Ingest, Source
from db.text import is_text

#: Seconds after the end of its lease at which an ingest counts as broken off before a sweep has said so. A
#: command renews its lease much more often, so one that is this late has died.
_DEAD_AFTER_SECONDS = 30.0

#: The code of what a cohort waits for, and since when.
_Wait = tuple[str | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of one cohort. The counts by state always add up to `total`."""

    cohort_id: int
    name: str
    state: CohortState
    priority: int
    total: int
    pending: int
    queued: int
    running: int
    done: int
    skipped: int
    failed: int
    #: Number of images per problem code.
    problems: dict[str, int]
    #: Why its batches must wait: the code of an error, such as `source-away` or `model-missing`.
    waits_for: str | None = None
    #: Since when, in seconds since 1970 UTC. None if it does not wait, or an earlier version wrote why.
    waits_since: float | None = None
    #: Whether its rows were moved to an archive.
    archived: bool = False
    #: Whether a source was not read to its end, and no command reads one now.
    ingest_broke_off: bool = False

    @property
    def ended(self) -> int:
        """Images in a terminal state."""
        return self.done + self.skipped + self.failed

    @property
    def finished(self) -> bool:
        """Whether every image has been added and has ended."""
        return self.state is not CohortState.INGESTING and self.ended == self.total

    @property
    def stands_still(self) -> bool:
        """Whether it cannot continue by itself: it is finished, or `submit` must repeat its ingest."""
        return self.finished or (self.ingest_broke_off and self.ended == self.total)


def progress(session: Session, names: Sequence[str] | None = None) -> list[Progress]:
    """Return the progress of all cohorts or of those of these names, the oldest first. It reads no images.

    Raises CohortUnknown if no cohort has one of the names.
    """
    query = select(Cohort).order_by(Cohort.id)
    if names is not None:
        query = query.where(Cohort.name.in_(list(filter(is_text, names))))
    cohorts = session.scalars(query).all()
    if names is not None and len(cohorts) < len(set(names)):
        raise CohortUnknown
    return progress_of(session, cohorts)


def progress_of(session: Session, cohorts: Sequence[Cohort]) -> list[Progress]:
    """Return the progress of these cohorts, in their order. It reads no images."""
    # The counts of an archived cohort are in its own row.
    cohort_ids = [cohort.id for cohort in cohorts if cohort.archived is None]
    open_ones = [cohort.id for cohort in cohorts if cohort.state is CohortState.INGESTING]
    broken_off = set(open_ones) - _with_running_ingest(session, open_ones)
    counts = count_images(session, cohort_ids)
    waits = _waiting_sources(session, cohort_ids)
    return [
        _progress(cohort, counts.get(cohort.id, {}), waits, broke_off=cohort.id in broken_off)
        for cohort in cohorts
    ]


def _waiting_sources(session: Session, cohort_ids: Sequence[int]) -> dict[int, _Wait]:
    """Return why a source of each of these cohorts waits, and since when. Of several: the longest wait."""
    query = (
        select(Source.cohort_id, Source.waits_for, Source.waits_since)
        .where(Source.waits_for.is_not(None), Source.cohort_id.in_(cohort_ids))
        .order_by(Source.waits_since.desc())
    )
    return {row.cohort_id: (row.waits_for, row.waits_since) for row in session.execute(query)}


def _with_running_ingest(session: Session, cohort_ids: Sequence[int]) -> set[int]:
    """Return those of these cohorts that a command with a valid lease reads a source into."""
    if not cohort_ids:
        return set()
    query = select(Ingest.cohort_id).where(
        Ingest.state == IngestState.RUNNING,
        Ingest.cohort_id.in_(cohort_ids),
        Ingest.lease_until > database_now() - _DEAD_AFTER_SECONDS,
    )
    return set(session.scalars(query))


def _progress(
    cohort: Cohort,
    counts: Counts,
    waiting_sources: dict[int, _Wait],
    *,
    broke_off: bool,
) -> Progress:
    if cohort.archived is not None:
        return Progress(**cohort.archived | {"archived": True})
    states = dict.fromkeys(ImageState, 0)
    problems: Counter[str] = Counter()
    for (state, problem), count in counts.items():
        states[state] += count
        if problem:
            problems[problem] += count
    waits_for, since = cohort.waits_for, cohort.waits_since
    if waits_for is None:
        waits_for, since = waiting_sources.get(cohort.id, (None, None))
    unfinished = any(states[state] for state in UNFINISHED)
    return Progress(
        cohort_id=cohort.id,
        name=cohort.name,
        state=cohort.state,
        priority=cohort.priority,
        total=sum(states.values()),
        problems=dict(sorted(problems.items())),
        archived=False,
        ingest_broke_off=broke_off,
        waits_for=waits_for if unfinished else None,
        waits_since=since if unfinished else None,
        **{state.value: count for state, count in states.items()},
    )
