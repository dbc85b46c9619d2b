"""The job table compared with a simple model of it, through random events that Hypothesis draws."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.batches import cut_batches
from db.jobs.claims import Claim, Effort, NotScreened, claim, complete, requeue
from db.jobs.cohorts import CohortArchived, cancel, find_cohort, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.ingests import (
    CohortCancelled,
    CohortClosed,
    HeldIngest,
    IngestTakenOver,
    begin_ingest,
    end_ingest,
    expire_ingests,
)
from db.jobs.problems import CorruptImage, FileVanished, NoPixels, NotChest, SourceAway
from db.jobs.sources import Backoff, ensure_source
from db.jobs.sweep import PARTS, expire_batches
from db.lease import LeaseLost, renew
from db.models.predictions import Provenance, Screened
from db.models.registry import import_model, promote
from db.tables import Batch, Cohort, Image, ImageCount, Ingest, Model, Source, Table
from db.upkeep.archive import CohortNotFinished, remove_rows, stamp
from db.upkeep.counters import fold
from tests.faults.invariant import check
from tests.faults.model_table import Key, ModelBatch, ModelTable

COHORTS = ("one", "two", "three")
BATCH, IN_FLIGHT = 3, 3
PROVENANCE = Provenance(threshold=0.5, runtime="none", preprocessing="none", software="0")
EFFORT = Effort(decode_seconds=0, forward_seconds=0, gpu_memory_bytes=None)
SOURCES = ("/data", "/more")
#: SOP Instances that images are copies of; None for what is not DICOM.
INSTANCES = (None, "1.2.3", "4.5.6")
IMAGES = st.lists(st.sampled_from(INSTANCES), min_size=1, max_size=7)
#: The error that a feeder gets, if any.
Refused = type[PneumoscreenError] | None
#: States and problems that `retry` repeats.
AGAIN = ("cancelled", "corrupt-image", "file-vanished", "worker-lost")
#: Problems that a worker finds in an image.
PROBLEMS = {
    "corrupt-image": CorruptImage,
    "file-vanished": FileVanished,
    "no-pixels": NoPixels,
    "not-chest": NotChest,
}
OUTCOMES = ("done", *PROBLEMS)
ENDED = ("cancelled", "worker-lost", "duplicate-instance", *OUTCOMES)
#: The backoffs of an unavailable source and of an unavailable model.
SOURCE_WAIT = Backoff(code=SourceAway.code, first_seconds=30, limit_seconds=3600)
MODEL_WAIT = Backoff(code="model-missing", first_seconds=30, limit_seconds=3600)


def predicted(image_id: int) -> Screened:
    return Screened(
        image_id=image_id, probability=0.5, label="PNEUMONIA", precision="fp32", input_digest="0" * 64
    )


class JobTable(RuleBasedStateMachine):
    """Random events, applied to the real table and to the model."""

    database: Database
    #: Row ids of registered models, by name.
    models: dict[str, int]
    #: The files of the other model, which is sometimes imported again.
    artefact: Path

    @initialize()
    def empty(self) -> None:
        with self.database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                if table.name not in (Model.__tablename__, ImageCount.__tablename__):
                    session.execute(delete(table))
            fold(session)
            assert session.scalars(select(ImageCount)).all() == [], "deleted images are still counted"
            champion = session.scalars(select(Model.id).where(Model.state == "champion")).one()
        self.table = ModelTable(champion=champion)
        #: Every claim so far; one that has lost its lease is a zombie.
        self.claims: list[Claim] = []
        #: Every ingest so far, with its cohort and source; most were taken over or have ended.
        self.leases: list[tuple[HeldIngest, Key]] = []
        self.names = count()
        self.imported = False

    # -- events of the scheduler

    @rule(cohort=st.sampled_from(COHORTS), source=st.sampled_from(SOURCES))
    def begin_ingest(self, cohort: str, source: str) -> None:
        """Start a feeder, which takes over from a feeder of the same source."""
        archived = self.table.cohorts.get(cohort) == "archived"
        try:
            with self.database.write() as session:
                row = open_cohort(session, cohort, source=source)
                lease = begin_ingest(session, row.id, source, owner="feeder", lease_seconds=3600)
        except CohortArchived:
            assert archived
            return
        assert not archived
        self.table.cohorts[cohort] = "ingesting"
        self.table.ingests[cohort, source] = lease.lease.token, "running"
        self.leases.append((lease, (cohort, source)))

    def _some_lease(self, data: Any) -> tuple[HeldIngest, Key, Refused]:
        """Return an ingest, mostly a running one, and the error with which it is refused, if any."""
        held = [one for one in self.leases if self._refused(*one) is None]
        late = not held or data.draw(st.integers(0, 4)) == 0
        lease, key = data.draw(st.sampled_from(self.leases if late else held))
        return lease, key, self._refused(lease, key)

    def _refused(self, lease: HeldIngest, key: Key) -> Refused:
        of_state = {"archived": CohortArchived, "cancelled": CohortCancelled}
        token, state = self.table.ingests[key]
        if refused := of_state.get(self.table.cohorts[key[0]]):
            return refused
        if token != lease.lease.token:
            return IngestTakenOver
        return CohortClosed if state == "ended" else None

    def _as_feeder(self, refused: Refused, key: Key, do: Any) -> bool:
        try:
            with self.database.write() as session:
                do(session)
        except PneumoscreenError as error:
            assert type(error) is refused
            return False
        assert refused is None, "a feeder that has lost its ingest was accepted"
        self.table.cohorts[key[0]], self.table.ingests[key] = (
            "ingesting",
            (self.table.ingests[key][0], "running"),
        )
        return True

    @rule(cohort=st.sampled_from(COHORTS), instances=IMAGES)
    def ingest(self, cohort: str, instances: list[str | None]) -> None:
        """Ingest a source in one step."""
        self.begin_ingest(cohort, SOURCES[0])
        if self.table.cohorts[cohort] != "archived":
            lease, key = self.leases[-1]
            self._feed(lease, key, None, instances)
            self._end(lease, key, None)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), instances=IMAGES)
    def feed(self, data: Any, instances: list[str | None]) -> None:
        self._feed(*self._some_lease(data), instances)

    def _feed(self, lease: HeldIngest, key: Key, refused: Refused, instances: list[str | None]) -> None:
        new = [NewImage(uri=f"{key[1]}/{next(self.names)}", instance_uid=uid) for uid in instances]

        def add(session: Session) -> None:
            source_id = ensure_source(session, lease.cohort_id, key[1])
            for expected in (len(new), 0):
                added = add_images(session, lease.cohort_id, new, ingest=lease, source_id=source_id)
                assert added == expected

        if not self._as_feeder(refused, key, add):
            return
        with self.database.read() as session:
            uris = [one.uri for one in new]
            columns = (Image.id, Image.instance_uid, Image.source_id)
            rows = session.execute(select(*columns).where(Image.uri.in_(uris))).all()
        for image, instance, source in sorted(rows, key=lambda row: row.id):
            self.table.images[image], self.table.cohort_of[image] = "pending", key[0]
            self.table.instance_of[image], self.table.source_of[image] = instance, source
        self.table.skip_duplicates(key[0])

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def end_ingest(self, data: Any) -> None:
        self._end(*self._some_lease(data))

    def _end(self, lease: HeldIngest, key: Key, refused: Refused) -> None:
        if self._as_feeder(refused, key, lambda session: end_ingest(session, lease)):
            self.table.ingests[key] = lease.lease.token, "ended"
            self.table.close(key[0])

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def lose_ingest(self, data: Any) -> None:
        """Let a feeder die, or seem to: its lease expires, and the sweeper finds it."""
        lease, key, _ = self._some_lease(data)
        token, state = self.table.ingests[key]
        with self.database.write() as session:
            session.execute(update(Ingest).where(Ingest.id == lease.lease.row_id).values(lease_until=0.0))
            assert expire_ingests(session) == (state == "running")
        if state == "running":
            self.table.ingests[key] = token, "broken-off"

    @precondition(lambda self: any(state != "archived" for state in self.table.cohorts.values()))
    @rule(data=st.data())
    def archive(self, data: Any) -> None:
        """Archive a cohort; an unfinished or an archived cohort is refused."""
        cohort = data.draw(st.sampled_from(sorted(self.table.cohorts)))
        ended = all(self.table.images[image] in ENDED for image in self.table.of(cohort))
        state = self.table.cohorts[cohort]
        try:
            with self.database.write() as session:
                cohort_id = find_cohort(session, cohort).id
                remove_rows(session, cohort_id, stamp(session, cohort_id), file="one", digest="0" * 64)
        except CohortArchived:
            assert state == "archived"
        except CohortNotFinished:
            assert state == "ingesting" or not ended
        else:
            assert ended
            assert state in ("ready", "cancelled")
            self.table.cohorts[cohort] = "archived"
            for image in self.table.of(cohort):
                del self.table.images[image], self.table.cohort_of[image], self.table.instance_of[image]
            self.table.batches = {n: one for n, one in self.table.batches.items() if one.cohort != cohort}

    @precondition(lambda self: self.table.images)
    @rule(cohort=st.sampled_from(COHORTS))
    def dispatch(self, cohort: str) -> None:
        if cohort not in self.table.cohorts:
            return
        with self.database.write() as session:
            row = find_cohort(session, cohort)
            cut = cut_batches(session, row.id, batch_images=BATCH, in_flight=IN_FLIGHT)
        for batch_id, batch in zip(cut, self.table.cut(cohort, size=BATCH, most=IN_FLIGHT), strict=True):
            self.table.batches[batch_id] = batch
            self.table.move(batch, "queued")

    @rule(cohort=st.sampled_from(COHORTS))
    def cancel(self, cohort: str) -> None:
        if cohort not in self.table.cohorts:
            return
        with self.database.write() as session:
            cancel(session, find_cohort(session, cohort))
        ended = all(self.table.images[image] in ENDED for image in self.table.of(cohort))
        if self.table.cohorts[cohort] == "archived" or (self.table.cohorts[cohort] == "ready" and ended):
            return  # a finished cohort stays as it is
        self.table.cohorts[cohort] = "cancelled"
        self._sources_are_available(cohort)
        self.table.end_ingests(cohort)
        for image in self.table.of(cohort):
            if self.table.images[image] in ("pending", "queued"):
                self.table.images[image] = "cancelled"
        for batch in self.table.batches.values():
            if batch.cohort == cohort and batch.state == "queued":
                batch.state = "cancelled"

    @rule(cohort=st.sampled_from(COHORTS))
    def retry(self, cohort: str) -> None:
        if cohort not in self.table.cohorts:
            return
        with self.database.write() as session:
            again = retry(session, find_cohort(session, cohort))
        if self.table.cohorts[cohort] == "cancelled":
            self.table.cohorts[cohort] = "ready"
        self._sources_are_available(cohort)
        waited = [image for image in self.table.of(cohort) if self.table.images[image] == "pending"]
        for image in self.table.of(cohort):
            if self.table.images[image] in AGAIN:
                self.table.images[image] = "pending"
        self.table.skip_duplicates(cohort)
        self.table.take_over(self.table.of(cohort))
        waits = [image for image in self.table.of(cohort) if self.table.images[image] == "pending"]
        assert again == len(waits) - len(waited)

    def _sources_are_available(self, cohort: str) -> None:
        with self.database.read() as session:
            query = select(Source.id).join(Cohort).where(Cohort.name == cohort)
            for source in session.scalars(query):
                self.table.unavailable.pop(source, None)

    @precondition(lambda self: self.table.unavailable)
    @rule(data=st.data())
    def pause_ends(self, data: Any) -> None:
        """Let the pause of a source end, so that the source is tried again."""
        source = data.draw(st.sampled_from(sorted(self.table.unavailable)))
        with self.database.write() as session:
            session.execute(update(Source).where(Source.id == source).values(try_at=0.0))
        self.table.unavailable[source] = True

    @precondition(lambda self: not self.imported)
    @rule()
    def import_again(self) -> None:
        """Import a registered model again: only once, because its weights are read completely."""
        self.imported = True
        assert import_model(self.database, self.artefact).id in self.models.values()

    @rule(data=st.data())
    def promote(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.models)))
        with self.database.write() as session:
            promote(session, name)
        self.table.champion = self.models[name]

    @rule()
    def sweep(self) -> None:
        with self.database.write() as session:
            assert expire_batches(session) == 0, "a lease expired too early"

    # -- events of workers

    @precondition(lambda self: self.table.batches)
    @rule(data=st.data())
    def claim(self, data: Any) -> None:
        """Let a message arrive: the first, a second one, or one for a finished batch."""
        waiting = [number for number, batch in self.table.batches.items() if batch.state == "queued"]
        late = not waiting or data.draw(st.integers(0, 4)) == 0
        batch_id = data.draw(st.sampled_from(sorted(self.table.batches if late else waiting)))
        batch = self.table.batches[batch_id]
        with self.database.write() as session:
            taken = claim(session, batch_id, owner="worker", lease_seconds=3600)
        assert (taken is not None) == (batch.state == "queued")
        if taken is None:
            return
        assert [item.image_id for item in taken.images] == batch.images
        batch.state, batch.attempts = "running", batch.attempts + 1
        self.table.move(batch, "running")
        self.table.leases[taken.lease.token] = batch_id
        self.claims.append(taken)

    def _some_claim(self, data: Any) -> tuple[Claim, bool]:
        """Return the claim of a holder, or sometimes of a zombie, and whether it has its lease."""
        holders = [taken for taken in self.claims if taken.lease.token in self.table.leases]
        zombie = not holders or data.draw(st.integers(0, 4)) == 0
        taken: Claim = data.draw(st.sampled_from(self.claims if zombie else holders))
        return taken, taken.lease.token in self.table.leases

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: Any) -> None:
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: renew(s, taken.lease))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def complete(self, data: Any) -> None:
        """Let a worker write its results; a zombie, which has lost its lease, writes nothing."""
        taken, alive = self._some_claim(data)
        found = {item.image_id: data.draw(st.sampled_from(OUTCOMES)) for item in taken.images}
        screened = [
            Screened(
                image_id=one, probability=0.5, label="PNEUMONIA", precision="fp32", input_digest="0" * 64
            )
            for one, outcome in found.items()
            if outcome == "done"
        ]
        bad = [NotScreened(one, PROBLEMS[outcome]()) for one, outcome in found.items() if outcome in PROBLEMS]
        self._as_holder(alive, lambda s: complete(s, taken, screened, bad, PROVENANCE, EFFORT))
        if alive:
            self.table.batches[self.table.leases.pop(taken.lease.token)].state = "done"
            self.table.images.update(found)
            self.table.unavailable.pop(taken.source_id or 0, None)
            cohort = self.table.cohort_of[taken.images[0].image_id]
            if self.table.cohorts[cohort] != "cancelled":
                self.table.take_over(list(found))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: requeue(s, taken.lease))
        if alive:
            self._given_back(taken)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def find_source_unavailable(self, data: Any) -> None:
        """Let a worker find a source unavailable: none of its batches is queued before the next try."""
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: requeue(s, taken.lease, backoff=SOURCE_WAIT))
        if alive and (batch := self._given_back(taken)):
            self.table.lose_source(batch.source)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def find_model_missing(self, data: Any) -> None:
        """Let a worker find a model's files missing: its images go to another champion, if there is one."""
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: requeue(s, taken.lease, backoff=MODEL_WAIT))
        if alive and (batch := self._given_back(taken)) and batch.model != self.table.champion:
            batch.state = "cancelled"
            self.table.move(batch, "pending")

    def _given_back(self, taken: Claim) -> ModelBatch | None:
        """Requeue the batch of a claim in the model; return it, unless its cohort is cancelled."""
        batch = self.table.batches[self.table.leases.pop(taken.lease.token)]
        batch.attempts -= 1
        # No batch of a cancelled cohort is requeued.
        cancelled = self.table.cohorts[batch.cohort] == "cancelled"
        batch.state = "cancelled" if cancelled else "queued"
        self.table.move(batch, batch.state)
        return None if cancelled else batch

    def _as_holder(self, alive: bool, do: Any) -> None:
        try:
            with self.database.write() as session:
                do(session)
        except LeaseLost:
            assert not alive, "a holder was refused"
        else:
            assert alive, "a zombie was accepted"

    @precondition(lambda self: self.table.leases)
    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        """Let a worker die: its lease expires, and the sweeper finds it."""
        token = data.draw(st.sampled_from(sorted(self.table.leases)))
        batch_id = self.table.leases[token]
        before = set(self._batch_ids())
        with self.database.write() as session:
            session.execute(update(Batch).where(Batch.id == batch_id).values(lease_until=0.0))
            assert expire_batches(session) == 1
        batch = self.table.batches[batch_id]
        self.table.lose(batch_id)
        parts = sorted(set(self._batch_ids()) - before)
        if batch.state != "split":
            assert parts == []
            return
        size = -(-len(batch.images) // PARTS)
        starts = range(0, len(batch.images), size)
        for part, start in zip(parts, starts, strict=True):
            images = batch.images[start : start + size]
            self.table.batches[part] = ModelBatch(batch.cohort, images, batch.source, batch.model)

    def _batch_ids(self) -> list[int]:
        with self.database.read() as session:
            return list(session.scalars(select(Batch.id)))

    # -- invariants

    @invariant()
    def the_table_is_the_model(self) -> None:
        with self.database.read() as session:
            images = session.execute(select(Image.id, Image.state, Image.problem)).all()
            batches = session.execute(select(Batch.id, Batch.state, Batch.model_id, Batch.source_id)).all()
            waiting = set(session.scalars(select(Source.id).where(Source.waits_for.is_not(None))))
            champion = session.scalars(select(Model.id).where(Model.state == "champion")).one()
            cohorts = session.execute(select(Cohort.id, Cohort.name, Cohort.state, Cohort.archived)).all()
            ingests = session.execute(select(Ingest.cohort_id, Ingest.source, Ingest.state)).all()
        names = {one.id: one.name for one in cohorts}
        assert {
            one.name: "archived" if one.archived else str(one.state) for one in cohorts
        } == self.table.cohorts
        assert {(names[one.cohort_id], one.source): str(one.state) for one in ingests} == {
            key: state for key, (_, state) in self.table.ingests.items()
        }
        assert {one.id: one.problem or str(one.state) for one in images} == self.table.images
        assert {one.id: (str(one.state), one.model_id, one.source_id) for one in batches} == {
            number: (batch.state, batch.model, batch.source) for number, batch in self.table.batches.items()
        }
        assert (waiting, champion) == (set(self.table.unavailable), self.table.champion)
        check(self.database)

    def teardown(self) -> None:
        """Check that everything ends if there are no more faults."""
        if not hasattr(self, "table"):
            return
        for _ in range(200):
            with self.database.write() as session:
                session.execute(update(Batch).where(Batch.lease_until.is_not(None)).values(lease_until=0.0))
                session.execute(update(Source).where(Source.waits_for.is_not(None)).values(try_at=0.0))
                expire_batches(session)
                for cohort in self.table.cohorts:
                    cut_batches(session, find_cohort(session, cohort).id, batch_images=BATCH, in_flight=99)
                queued = session.scalars(select(Batch.id).where(Batch.state == "queued")).all()
                for batch_id in queued:
                    taken = claim(session, batch_id, owner="last", lease_seconds=60)
                    assert taken is not None
                    done = [predicted(item.image_id) for item in taken.images]
                    complete(session, taken, done, [], PROVENANCE, EFFORT)
            if not queued:
                break
        check(self.database, ended=True)


def test_the_job_table_matches_its_model(database: Database, model: Model, other_artefact: Path) -> None:
    other = import_model(database, other_artefact)

    def make() -> JobTable:
        machine = JobTable()
        machine.database, machine.artefact = database, other_artefact
        machine.models = {model.name: model.id, other.name: other.id}
        return machine

    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
