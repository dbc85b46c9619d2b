"""A process that writes to the job table as schedulers and workers do, as fast as it can.

`python -m tests.faults.writer NUMBER SECONDS` prints the number of its transactions and the slowest one.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, claim, complete, requeue
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.sweep import expire_batches
from db.lease import LeaseLost, renew
from db.models.predictions import Provenance, Screened
from db.states import BatchState
from db.tables import Batch

_PROVENANCE = Provenance(threshold=0.5, runtime="none", preprocessing="none", software="0")
_EFFORT = Effort(decode_seconds=0, forward_seconds=0, gpu_memory_bytes=None)


class Writer:
    def __init__(self, number: int) -> None:
        self.number, self.draw = number, random.Random(number)
        self.database = Database()
        self.written, self.slowest = 0, 0.0

    @contextmanager
    def write(self) -> Iterator[Session]:
        start = time.monotonic()
        with self.database.write() as session:
            yield session
        self.written += 1
        self.slowest = max(self.slowest, time.monotonic() - start)

    def turn(self, turn: int) -> None:
        with self.write() as session:
            cohort = open_cohort(session, f"cohort-{self.number}", source="/data")
            add_images(session, cohort.id, [NewImage(uri=f"/data/{turn}/{n}") for n in range(20)])
            mark_ready(session, cohort.id)
        with self.write() as session:
            cut_batches(session, cohort.id, batch_images=16, in_flight=4)
        with self.write() as session:
            expire_batches(session)
        self.work()

    def work(self) -> None:
        """Screen a queued batch of any cohort: all writers compete for the same batches."""
        with self.database.read() as session:
            queued = session.scalars(select(Batch.id).where(Batch.state == BatchState.QUEUED)).all()
        if not queued:
            return
        with self.write() as session:
            taken = claim(session, self.draw.choice(queued), owner=str(self.number), lease_seconds=0.05)
        if taken is None:
            return
        with suppress(LeaseLost):
            with self.write() as session:
                renew(session, replace(taken.lease, seconds=0.2))
            if self.draw.random() < 0.2:
                with self.write() as session:
                    requeue(session, taken.lease)
                return
            screened = [
                Screened(image_id=item.image_id, probability=0.5, label="PNEUMONIA", precision="fp32",
                         input_digest="0" * 64)
                for item in taken.images
            ]  # fmt: skip
            with self.write() as session:
                complete(session, taken, screened, [], _PROVENANCE, _EFFORT)


def main() -> None:
    writer = Writer(int(sys.argv[1]))
    until, turn = time.monotonic() + float(sys.argv[2]), 0
    while time.monotonic() < until:
        writer.turn(turn)
        turn += 1
    print(writer.written, f"{writer.slowest:.3f}")


if __name__ == "__main__":
    main()
