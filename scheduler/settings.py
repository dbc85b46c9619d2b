"""Settings of the scheduler."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class SchedulerSettings(RoomSettings):
    """Batches, notifications and sweeps."""

    #: Images in a batch of a large cohort. A batch costs one message and one transaction: 256 images keep
    #: both rare, and a worker that dies loses little work.
    batch_images: Annotated[int, Field(ge=1)] = 256
    #: Unfinished batches of one cohort at a time: enough to keep the workers busy between two ticks, and few
    #: enough that a cohort of higher priority or a cancel takes effect at once.
    batches_in_flight: Annotated[int, Field(ge=1)] = 8
    #: Seconds between two ticks that cut batches and send notifications.
    dispatch_seconds: Annotated[float, Field(gt=0)] = 2.0
    #: Seconds between two searches for batches whose lease has expired.
    sweep_seconds: Annotated[float, Field(gt=0)] = 5.0
    #: Seconds after which workers are notified again of a batch that none has claimed, because its message
    #: may be lost. A second message does no harm.
    ring_again_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Images written per transaction while a source is walked.
    ingest_images: Annotated[int, Field(ge=1)] = 1000
    #: Whether Accession Numbers are stored with the studies that are added from now on. They identify a
    #: patient's visit, so they are not stored unless you decide it. `results --accession` exports them.
    keep_accession: bool = False
