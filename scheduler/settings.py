"""Settings of the scheduler."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class SchedulerSettings(RoomSettings):
    """Cutting, notifications and sweeps."""

    #: Images in a batch of a large cohort. A batch is one message and one transaction; 256 keep both
    #: rare and lose little work with a worker.
    batch_images: Annotated[int, Field(ge=1)] = 256
    #: Batches of one cohort that are under way at a time: enough to keep the workers busy between two
    #: ticks, few enough that a cohort of higher priority or a cancel takes effect at once.
    batches_in_flight: Annotated[int, Field(ge=1)] = 8
    #: Seconds between two ticks of cutting and ringing.
    dispatch_seconds: Annotated[float, Field(gt=0)] = 2.0
    #: Seconds between two searches for batches whose lease has ended.
    sweep_seconds: Annotated[float, Field(gt=0)] = 5.0
    #: Seconds after which the broker is told again of a batch that nobody came for: its message may be
    #: lost. A second message does no harm.
    ring_again_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Images written per transaction while a source is walked.
    ingest_images: Annotated[int, Field(ge=1)] = 1000
