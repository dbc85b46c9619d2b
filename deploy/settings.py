"""Settings of the embedded stack."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class StackSettings(RoomSettings):
    """The embedded stack."""

    #: Whether the stack starts a broker of its own. If not, it uses the one that `broker_url` names.
    embedded_broker: bool = True
    #: Memory for the embedded broker's messages, in MiB. A full broker refuses new ones, and workers are
    #: notified again later. A message takes about 1 kB: 256 MiB hold 200,000, more than any backlog needs.
    embedded_broker_memory_mib: Annotated[int, Field(ge=16)] = 256
    #: Batches that the screening worker holds at a time: one computes while the other decodes.
    worker_batches: Annotated[int, Field(ge=1)] = 2
    #: Seconds that a process has to finish its tasks when the stack stops.
    stop_seconds: Annotated[int, Field(ge=1)] = 120
