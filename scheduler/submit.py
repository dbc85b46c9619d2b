"""The intake of a source: from its files to rows in the job table, under a cohort."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from sqlalchemy.orm import Session

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.cohorts import CohortUnknown, find_cohort, open_cohort
from db.jobs.images import add_images, held_uris
from db.jobs.ingests import HeldIngest, IngestTakenOver, begin_ingest, break_off, end_ingest
from db.jobs.sources import ensure_source
from db.lease import Heartbeat
from db.models.registry import champion, find_model
from db.tables import Cohort
from db.text import counted, is_too_long
from scheduler.ingest.chunks import chunks
from scheduler.ingest.left_out import LeftOut
from scheduler.ingest.pseudonym import ensure_site_key, place_pseudonym
from scheduler.ingest.source import Source, SourceEmpty, SourceUnreadable
from scheduler.ingest.walk import Known, Walk
from scheduler.settings import SchedulerSettings
from worker.broker.notify import ask_for_batches
from worker.files.opener import Entry
from worker.files.url import root_of

#: Seconds without a heartbeat after which a command that takes a source in counts as dead: five heartbeats.
#: It does not depend on the batches' lease. A long walk costs one statement every twelve seconds.
_LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(LeftOut):
    """The outcome of an intake."""

    cohort_id: int
    cohort: str
    #: Images that the source holds.
    found: int
    #: Those of them that the cohort did not hold yet.
    new: int
    #: Whether another command took over the intake of the same source and continues it.
    taken_over: bool = False

    def as_text(self) -> str:
        """Return it as a few sentences."""
        left_out = LeftOut.as_text(self)
        text = f"Cohort {self.cohort}: {counted(self.found, 'image')}, {self.new} of them new; {left_out}"
        if self.taken_over:
            text += " Another command takes the same source in, and continues from here."
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The hooks by which a caller extends an intake."""

    #: Files that are left out of the walk, in addition to those that the cohort holds.
    known: tuple[Known, ...] = ()
    #: Called with the cohort, in the transaction that opens it.
    on_open: Callable[[Session, Cohort], None] = lambda *_: None
    #: Called after each chunk of images. An error that it raises ends the intake.
    on_found: Callable[[], None] = lambda: None


NO_HOOKS = Hooks()


def submit(
    database: Database,
    source: Source,
    *,
    name: str,
    priority: int | None = None,
    model: str | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Submitted:
    """Write a source's images into the job table under a cohort.

    Files that the cohort holds already are not opened. Without a priority, an existing cohort keeps its own.

    Safe to repeat: a command that was killed continues when it is run again. A source without an image leaves
    no cohort behind. If the source fails in the middle, the cohort keeps what was found, and the same command
    continues. If another command submits the same source meanwhile, it takes the intake over, and this one
    stops.
    Raises SourceEmpty, SourceUnreadable, ModelUnknown, NoChampion, CohortNameInvalid, PriorityOutOfRange,
    CohortHasOtherModel, CohortArchived, CohortCancelled, CohortClosed, SiteKeyMissing, SiteKeyDiffers,
    SiteKeyUnusable.
    """
    if is_too_long(source.described):
        raise SourceUnreadable("its path is too long")
    ensure_site_key(database)
    size = SchedulerSettings.read().ingest_images
    held = _Held(database, name)
    walk = Walk(source, *hooks.known, held)
    images = chunks(walk, size)
    chunk = next(images, None)
    if not chunk and not held.count:
        raise SourceEmpty(walk.left_out.as_text().rstrip(".") if walk.left_out else "")
    with database.write() as session:
        wanted = find_model(session, model) if model else None
        if wanted is None:
            champion(session)
        cohort = open_cohort(session, name, source=source.described, priority=priority, model=wanted)
        ingest = take_ingest(session, cohort.id, source.described)
        source_id = None
        if chunk:
            source_id = ensure_source(session, cohort.id, root_of(source.described, chunk[0].uri))
        hooks.on_open(session, cohort)
    taken = new = 0
    taken_over = False
    try:
        with _kept(database, ingest):
            while chunk:
                with database.write() as session:
                    new += add_images(session, ingest.cohort_id, chunk, ingest=ingest, source_id=source_id)
                if new and not taken and len(chunk) == size:
                    ask_for_batches()  # workers begin while the rest is taken in
                taken += len(chunk)
                hooks.on_found()
                chunk = next(images, None)
            with database.write() as session:
                end_ingest(session, ingest)
    except IngestTakenOver:
        taken_over = True
    if new:
        ask_for_batches()
    return Submitted(
        cohort_id=ingest.cohort_id,
        cohort=name,
        found=held.count + taken,
        new=new,
        **asdict(walk.left_out),
        taken_over=taken_over,
    )


class _Held:
    """The files that a cohort holds already."""

    def __init__(self, database: Database, cohort: str) -> None:
        self._database = database
        #: Files that were left out of the walk because the cohort holds them.
        self.count = 0
        with database.read() as session:
            try:
                self._cohort_id: int | None = find_cohort(session, cohort).id
            except CohortUnknown:
                self._cohort_id = None

    def unknown(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries that the cohort does not hold."""
        if self._cohort_id is None or not entries:
            return entries
        with self._database.read() as session:
            held = held_uris(session, self._cohort_id, [entry.uri for entry in entries])
        unknown = [entry for entry in entries if entry.uri not in held]
        self.count += len(entries) - len(unknown)
        return unknown

    def note_no_image(self, entry: Entry) -> None:
        """Do nothing: a cohort stores only images."""


def take_ingest(session: Session, cohort_id: int, source: str) -> HeldIngest:
    """Open the ingest of a source into a cohort, with a lease for this process."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    return begin_ingest(session, cohort_id, source, owner=owner, lease_seconds=_LEASE_SECONDS)


@contextmanager
def _kept(database: Database, ingest: HeldIngest) -> Iterator[None]:
    """Renew an ingest's lease while the block runs; if the block raises, the ingest has broken off."""
    try:
        with Heartbeat(database, ingest.lease):
            yield
    except BaseException:
        # If the job table is unavailable, the lease expires by itself.
        with suppress(DatabaseFailed), database.write() as session:
            break_off(session, ingest)
        raise


def default_cohort(source: Source) -> str:
    """Return the name of a source's cohort if the user gives none: the same source has the same name.

    It is a pseudonym: a folder may be named after a patient, and cohorts' names appear in results.
    """
    return f"cohort-{place_pseudonym(source.described.rstrip('/'))[:8]}"
