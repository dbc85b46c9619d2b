"""The job table against a simple model of it, driven by Hypothesis through whatever can happen."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
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

from db.batches import cut_batches
from db.cohorts import cancel, close_ingest, find_cohort, open_cohort, retry
from db.counts import fold
from db.engine import Database
from db.images import NewImage, add_images
from db.leases import (
    ATTEMPTS,
    PARTS,
    Claim,
    Effort,
    LeaseLost,
    NotScreened,
    Provenance,
    Screened,
    claim,
    complete,
    expire,
    give_back,
    keep,
)
from db.problems import CorruptImage, NotChest
from db.states import CohortState
from db.tables import Batch, Image, ImageCount, Model, Table
from tests.faults.invariant import check

COHORTS = ("one", "two")
BATCH, IN_FLIGHT = 3, 3
PROVENANCE = Provenance(threshold=0.5, runtime="none", preprocessing="none", software="0")
EFFORT = Effort(decode_seconds=0, forward_seconds=0, gpu_memory_bytes=None)
#: What `retry` takes up.
AGAIN = ("cancelled", "corrupt-image", "worker-lost")
#: How a worker finds an image.
OUTCOMES = ("done", "corrupt-image", "not-chest")


def predicted(image_id: int) -> Screened:
    return Screened(
        image_id=image_id, probability=0.5, label="PNEUMONIA", precision="fp32", input_digest="0" * 64
    )


@dataclass
class ModelBatch:
    """A batch, as the model sees it."""

    cohort: str
    images: list[int]
    state: str = "queued"
    attempts: int = 0


@dataclass
class ModelTable:
    """The job table, as simply as it can be said."""

    #: State or problem of each image, in the order of their rows.
    images: dict[int, str] = field(default_factory=dict)
    cohort_of: dict[int, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    batches: dict[int, ModelBatch] = field(default_factory=dict)
    #: The batch of each lease that is held.
    leases: dict[str, int] = field(default_factory=dict)

    def lose(self, batch_id: int) -> None:
        """Take a batch from its holder; its parts, if it is split, are found by `adopt`."""
        batch = self.batches[batch_id]
        self.leases = {token: held for token, held in self.leases.items() if held != batch_id}
        if batch.cohort in self.cancelled:
            batch.state = "cancelled"
            self.move(batch, "cancelled")
        elif batch.attempts < ATTEMPTS:
            batch.state = "queued"
            self.move(batch, "queued")
        elif len(batch.images) > 1:
            batch.state = "split"
            self.move(batch, "queued")
        else:
            batch.state = "done"
            self.move(batch, "worker-lost")

    def move(self, batch: ModelBatch, state: str) -> None:
        self.images.update(dict.fromkeys(batch.images, state))


class JobTable(RuleBasedStateMachine):
    """Does to the real table and to the model the same."""

    database: Database
    model_id: int

    @initialize()
    def empty(self) -> None:
        with self.database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                if table.name not in (Model.__tablename__, ImageCount.__tablename__):
                    session.execute(delete(table))
            fold(session)
            assert session.scalars(select(ImageCount)).all() == [], "images are gone and still counted"
        self.table = ModelTable()
        #: Every claim there ever was: the dead ones are zombies.
        self.claims: list[Claim] = []
        self.names = count()

    # -- what the scheduler does

    @rule(cohort=st.sampled_from(COHORTS), images=st.integers(1, 7))
    def ingest(self, cohort: str, images: int) -> None:
        with self.database.write() as session:
            row = open_cohort(session, cohort, source="/data")
            new = [NewImage(uri=f"/data/{next(self.names)}") for _ in range(images)]
            assert add_images(session, row.id, new) == images
            assert add_images(session, row.id, new) == 0
            close_ingest(session, row.id)
            ids = session.scalars(select(Image.id).where(Image.uri.in_([one.uri for one in new]))).all()
        self.table.images.update(dict.fromkeys(ids, "pending"))
        self.table.cohort_of.update(dict.fromkeys(ids, cohort))
        self.table.cancelled.discard(cohort)

    def _has(self, cohort: str) -> bool:
        return cohort in self.table.cohort_of.values()

    @precondition(lambda self: self.table.images)
    @rule(cohort=st.sampled_from(COHORTS))
    def dispatch(self, cohort: str) -> None:
        if not self._has(cohort):
            return
        with self.database.write() as session:
            row = find_cohort(session, cohort)
            cut = cut_batches(session, row.id, batch_images=BATCH, in_flight=IN_FLIGHT)
        pending = [one for one, state in self.table.images.items() if state == "pending"]
        waiting = sorted(one for one in pending if self.table.cohort_of[one] == cohort)
        under_way = [b for b in self.table.batches.values() if b.state in ("queued", "running")]
        free = IN_FLIGHT - sum(batch.cohort == cohort for batch in under_way)
        expected = [waiting[start : start + BATCH] for start in range(0, len(waiting), BATCH)][: max(free, 0)]
        assert len(cut) == (0 if cohort in self.table.cancelled else len(expected))
        for batch_id, images in zip(cut, expected, strict=False):
            self.table.batches[batch_id] = ModelBatch(cohort, images)
            self.table.move(self.table.batches[batch_id], "queued")

    @rule(cohort=st.sampled_from(COHORTS))
    def cancel(self, cohort: str) -> None:
        if not self._has(cohort):
            return
        with self.database.write() as session:
            cancel(session, find_cohort(session, cohort))
        self.table.cancelled.add(cohort)
        for image, state in self.table.images.items():
            if self.table.cohort_of[image] == cohort and state in ("pending", "queued"):
                self.table.images[image] = "cancelled"
        for batch in self.table.batches.values():
            if batch.cohort == cohort and batch.state == "queued":
                batch.state = "cancelled"

    @rule(cohort=st.sampled_from(COHORTS))
    def retry(self, cohort: str) -> None:
        if not self._has(cohort):
            return
        with self.database.write() as session:
            assert find_cohort(session, cohort).state in (CohortState.READY, CohortState.CANCELLED)
            retry(session, find_cohort(session, cohort))
        self.table.cancelled.discard(cohort)
        for image, state in self.table.images.items():
            if self.table.cohort_of[image] == cohort and state in (
                "cancelled",
                "corrupt-image",
                "worker-lost",
            ):
                self.table.images[image] = "pending"

    @rule()
    def sweep(self) -> None:
        with self.database.write() as session:
            assert expire(session) == 0, "a lease that has not ended was taken away"

    # -- what workers do

    @precondition(lambda self: self.table.batches)
    @rule(data=st.data())
    def claim(self, data: Any) -> None:
        """Let a message arrive: the first, a second one, or one for a batch that is long done."""
        waiting = [number for number, batch in self.table.batches.items() if batch.state == "queued"]
        late = not waiting or data.draw(st.integers(0, 4)) == 0
        batch_id = data.draw(st.sampled_from(sorted(self.table.batches if late else waiting)))
        batch = self.table.batches[batch_id]
        with self.database.write() as session:
            taken = claim(session, batch_id, owner="worker", lease_seconds=3600)
        assert (taken is not None) == (batch.state == "queued")
        if taken is None:
            return
        assert [item.image_id for item in taken.items] == batch.images
        batch.state, batch.attempts = "running", batch.attempts + 1
        self.table.move(batch, "running")
        self.table.leases[taken.token] = batch_id
        self.claims.append(taken)

    def _some_claim(self, data: Any) -> tuple[Claim, bool]:
        """Return a holder, or now and then a zombie, and whether it is alive."""
        holders = [taken for taken in self.claims if taken.token in self.table.leases]
        zombie = not holders or data.draw(st.integers(0, 4)) == 0
        taken: Claim = data.draw(st.sampled_from(self.claims if zombie else holders))
        return taken, taken.token in self.table.leases

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data: Any) -> None:
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: keep(s, taken.batch_id, taken.token, lease_seconds=3600))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def complete(self, data: Any) -> None:
        """Let a worker write its results; one whose lease is gone is a zombie and writes nothing."""
        taken, alive = self._some_claim(data)
        found = {item.image_id: data.draw(st.sampled_from(OUTCOMES)) for item in taken.items}
        screened = [
            Screened(
                image_id=one, probability=0.5, label="PNEUMONIA", precision="fp32", input_digest="0" * 64
            )
            for one, outcome in found.items()
            if outcome == "done"
        ]
        problems = {"corrupt-image": CorruptImage, "not-chest": NotChest}
        bad = [NotScreened(one, problems[outcome]()) for one, outcome in found.items() if outcome in problems]
        self._as_holder(alive, lambda s: complete(s, taken, screened, bad, PROVENANCE, EFFORT))
        if alive:
            self.table.batches[self.table.leases.pop(taken.token)].state = "done"
            self.table.images.update(found)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        taken, alive = self._some_claim(data)
        self._as_holder(alive, lambda s: give_back(s, taken.batch_id, taken.token))
        if alive:
            batch = self.table.batches[self.table.leases.pop(taken.token)]
            batch.attempts -= 1
            # Nothing of a cancelled cohort is handed out again.
            state = "cancelled" if batch.cohort in self.table.cancelled else "queued"
            batch.state = state
            self.table.move(batch, state)

    def _as_holder(self, alive: bool, do: Any) -> None:
        try:
            with self.database.write() as session:
                do(session)
        except LeaseLost:
            assert not alive, "a holder was refused"
        else:
            assert alive, "a zombie was let in"

    @precondition(lambda self: self.table.leases)
    @rule(data=st.data())
    def expire(self, data: Any) -> None:
        """Let a worker die: its lease ends, and the sweeper finds it."""
        token = data.draw(st.sampled_from(sorted(self.table.leases)))
        batch_id = self.table.leases[token]
        before = set(self._batch_ids())
        with self.database.write() as session:
            session.execute(update(Batch).where(Batch.id == batch_id).values(lease_until=0.0))
            assert expire(session) == 1
        batch = self.table.batches[batch_id]
        self.table.lose(batch_id)
        parts = sorted(set(self._batch_ids()) - before)
        if batch.state != "split":
            assert parts == []
            return
        size = -(-len(batch.images) // PARTS)
        starts = range(0, len(batch.images), size)
        for part, start in zip(parts, starts, strict=True):
            self.table.batches[part] = ModelBatch(batch.cohort, batch.images[start : start + size])

    def _batch_ids(self) -> list[int]:
        with self.database.read() as session:
            return list(session.scalars(select(Batch.id)))

    # -- what holds

    @invariant()
    def the_table_is_the_model(self) -> None:
        with self.database.read() as session:
            images = session.execute(select(Image.id, Image.state, Image.problem)).all()
            batches = session.execute(select(Batch.id, Batch.state)).all()
        assert {one.id: one.problem or str(one.state) for one in images} == self.table.images
        assert {one.id: str(one.state) for one in batches} == {
            number: batch.state for number, batch in self.table.batches.items()
        }
        check(self.database)

    def teardown(self) -> None:
        """See that without further faults everything ends."""
        if not hasattr(self, "table"):
            return
        for _ in range(200):
            with self.database.write() as session:
                session.execute(update(Batch).where(Batch.lease_until.is_not(None)).values(lease_until=0.0))
                expire(session)
                for cohort in sorted(set(self.table.cohort_of.values())):
                    cut_batches(session, find_cohort(session, cohort).id, batch_images=BATCH, in_flight=99)
                queued = session.scalars(select(Batch.id).where(Batch.state == "queued")).all()
                for batch_id in queued:
                    taken = claim(session, batch_id, owner="last", lease_seconds=60)
                    assert taken is not None
                    done = [predicted(item.image_id) for item in taken.items]
                    complete(session, taken, done, [], PROVENANCE, EFFORT)
            if not queued:
                break
        check(self.database, ended=True)


@pytest.mark.usefixtures("model")
def test_the_job_table_is_what_the_model_says(database: Database, model: Model) -> None:
    def make() -> JobTable:
        machine = JobTable()
        machine.database, machine.model_id = database, model.id
        return machine

    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
