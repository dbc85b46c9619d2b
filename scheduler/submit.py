"""Taking a cohort in: from a source to rows in the job table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from sqlalchemy.orm import Session

from db.cohorts import close_ingest, lock_cohort, open_cohort
from db.engine import Database
from db.images import add_images
from db.registry import champion, find_model
from db.sources import take_source
from db.states import CohortState
from db.tables import Cohort
from db.uri import root_of
from scheduler.doorbell import ask_for_batches
from scheduler.ingest.pseudonym import place_pseudonym
from scheduler.ingest.source import Source, SourceEmpty
from scheduler.settings import SchedulerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of taking a source in."""

    cohort_id: int
    cohort: str
    #: Images that the source holds.
    found: int
    #: Those of them that the cohort did not hold yet.
    new: int
    #: Files that are not images.
    ignored: int
    #: Folders that this user may not list.
    closed_folders: int

    def as_text(self) -> str:
        """Return it as a sentence or two."""
        text = (
            f"Cohort {self.cohort}: {self.found} images, {self.new} of them new; "
            f"{self.ignored} other files ignored."
        )
        return text + (
            f" Folders that may not be read: {self.closed_folders}." if self.closed_folders else ""
        )


def submit(
    database: Database,
    source: Source,
    *,
    name: str,
    priority: int = 0,
    model: str | None = None,
    on_found: Callable[[int], None] = lambda _: None,
    on_open: Callable[[Session, Cohort], None] = lambda *_: None,
) -> Submitted:
    """Write a source's images into the job table under a cohort; `on_found` gets the count as it grows.

    `on_open` gets the cohort in the transaction that opens it.

    Killed in the middle and run again it goes on: what is there stays. A source without an image
    leaves no cohort behind, and one that breaks off leaves it to be gone on with.
    Raises SourceEmpty, SourceUnreadable, ModelUnknown, NoChampion, CohortHasOtherModel.
    """
    size = SchedulerSettings.read().ingest_images
    images = source.walk()
    chunk = list(islice(images, size))
    if not chunk:
        closed = source.closed_folders
        raise SourceEmpty(f"folders that may not be read: {closed}" if closed else "")
    with database.write() as session:
        wanted = find_model(session, model) if model else None
        if wanted is None:
            champion(session)
        cohort = open_cohort(session, name, source=source.described, priority=priority, model=wanted)
        on_open(session, cohort)
        cohort_id = cohort.id
        source_id = take_source(session, cohort_id, root_of(source.described, chunk[0].uri))
    found = new = 0
    while chunk:
        with database.write() as session:
            if lock_cohort(session, cohort_id).state is CohortState.CANCELLED:
                break
            new += add_images(session, cohort_id, chunk, source_id=source_id)
        found += len(chunk)
        on_found(found)
        chunk = list(islice(images, size))
    with database.write() as session:
        close_ingest(session, cohort_id)
    if new:
        ask_for_batches()
    return Submitted(
        cohort_id=cohort_id,
        cohort=name,
        found=found,
        new=new,
        ignored=source.ignored,
        closed_folders=source.closed_folders,
    )


def default_cohort(source: Source) -> str:
    """Return a cohort name that is the same whenever the same source is screened.

    A folder may be named after a patient, and the names of cohorts go into results and onto terminals.
    """
    return f"cohort-{place_pseudonym(source.described.rstrip('/'))[:8]}"
