"""Taking a cohort in: from a source to rows in the job table."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.heartbeat import Heartbeat
from db.jobs.cohorts import CohortUnknown, find_cohort, open_cohort
from db.jobs.images import add_images, held_uris
from db.jobs.ingests import IngestLease, IngestTakenOver, begin_ingest, break_off, end_ingest, keep_ingest
from db.jobs.sources import take_source
from db.models.registry import champion, find_model
from db.tables import Cohort
from db.text import is_too_long
from scheduler.ingest.chunks import chunks
from scheduler.ingest.pseudonym import ensure_site_key, place_pseudonym
from scheduler.ingest.source import Source, SourceEmpty, SourceUnreadable
from scheduler.settings import SchedulerSettings
from worker.broker.notify import ask_for_batches
from worker.files.opener import Entry
from worker.files.url import root_of

#: Files looked up in the job table at a time.
LOOKUP = 1000

#: Seconds after which a command that takes a source in and gave no sign of life counts as dead: five
#: heartbeats. Batches have no say in it; a long walk costs a statement every twelve seconds.
_LEASE_SECONDS = 60.0


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
    #: Whether another command has taken the source over, which goes on with it.
    taken_over: bool = False

    def as_text(self) -> str:
        """Return it as a sentence or two."""
        text = (
            f"Cohort {self.cohort}: {self.found} images, {self.new} of them new; "
            f"{self.ignored} other files ignored."
        )
        if self.closed_folders:
            text += f" Folders that may not be read: {self.closed_folders}."
        if self.taken_over:
            text += " Another command takes the same source in, and goes on from here."
        return text


def submit(
    database: Database,
    source: Source,
    *,
    name: str,
    priority: int | None = None,
    model: str | None = None,
    on_found: Callable[[int], None] = lambda _: None,
    on_open: Callable[[Session, Cohort], None] = lambda *_: None,
) -> Submitted:
    """Write a source's images into the job table under a cohort; `on_found` gets the count as it grows.

    `on_open` gets the cohort in the transaction that opens it. Without a priority a cohort that exists keeps
    its own.

    Killed in the middle and run again it goes on: what is there stays, and is not opened again. A source
    without an image leaves no cohort behind, and one that breaks off leaves it to be gone on with. The same
    source submitted meanwhile takes it over: this one stops, and the other goes on.
    Raises SourceEmpty, SourceUnreadable, ModelUnknown, NoChampion, CohortNameInvalid, PriorityOutOfRange,
    CohortHasOtherModel, CohortArchived, CohortCancelled, CohortClosed, SiteKeyMissing, SiteKeyDiffers,
    SiteKeyUnusable.
    """
    if is_too_long(source.described):
        raise SourceUnreadable("its path is too long")
    ensure_site_key(database)
    size = SchedulerSettings.read().ingest_images
    unknown = _Unknown(database, source, name)
    images = chunks(source.walk(unknown.entries()), size)
    chunk = next(images, None)
    if not chunk and not unknown.held:
        closed = source.closed_folders
        raise SourceEmpty(f"folders that may not be read: {closed}" if closed else "")
    with database.write() as session:
        wanted = find_model(session, model) if model else None
        if wanted is None:
            champion(session)
        cohort = open_cohort(session, name, source=source.described, priority=priority, model=wanted)
        lease = take_ingest(session, cohort.id, source.described)
        source_id = None
        if chunk:
            source_id = take_source(session, cohort.id, root_of(source.described, chunk[0].uri))
        on_open(session, cohort)
    taken = new = 0
    taken_over = False
    try:
        with _kept(database, lease):
            while chunk:
                with database.write() as session:
                    new += add_images(session, lease.cohort_id, chunk, ingest=lease, source_id=source_id)
                taken += len(chunk)
                on_found(unknown.held + taken)
                chunk = next(images, None)
            with database.write() as session:
                end_ingest(session, lease)
    except IngestTakenOver:
        taken_over = True
    if new:
        ask_for_batches()
    return Submitted(
        cohort_id=lease.cohort_id,
        cohort=name,
        found=unknown.held + taken,
        new=new,
        ignored=source.ignored,
        closed_folders=source.closed_folders,
        taken_over=taken_over,
    )


class _Unknown:
    """What a source lists and a cohort does not hold yet."""

    def __init__(self, database: Database, source: Source, cohort: str) -> None:
        self._database, self._source = database, source
        #: Files that were passed over, because the cohort holds them.
        self.held = 0
        with database.read() as session:
            try:
                self._cohort_id: int | None = find_cohort(session, cohort).id
            except CohortUnknown:
                self._cohort_id = None

    def entries(self) -> Iterator[Entry]:
        """Yield them."""
        for chunk in chunks(self._source.entries(), LOOKUP):
            held = set[str]()
            if self._cohort_id is not None:
                with self._database.read() as session:
                    held = held_uris(session, self._cohort_id, [entry.uri for entry in chunk])
            unknown = [entry for entry in chunk if entry.uri not in held]
            self.held += len(chunk) - len(unknown)
            yield from unknown


def take_ingest(session: Session, cohort_id: int, source: str) -> IngestLease:
    """Take the ingest of a source into a cohort in this process' name."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    return begin_ingest(session, cohort_id, source, owner=owner, lease_seconds=_LEASE_SECONDS)


@contextmanager
def _kept(database: Database, lease: IngestLease) -> Iterator[None]:
    """Keep an ingest's lease for as long as the block lasts; if that fails, the ingest has broken off."""
    try:
        with Heartbeat(
            database,
            f"ingest {lease.ingest_id}",
            lease.seconds,
            lambda session: keep_ingest(session, lease),
        ):
            yield
    except BaseException:
        # Without the job table the lease ends by itself.
        with suppress(DatabaseFailed), database.write() as session:
            break_off(session, lease)
        raise


def default_cohort(source: Source) -> str:
    """Return a cohort name that is the same whenever the same source is screened.

    A folder may be named after a patient, and the names of cohorts go into results and onto terminals.
    """
    return f"cohort-{place_pseudonym(source.described.rstrip('/'))[:8]}"
