"""Settings of the embedded stack."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from db.settings import RoomSettings


class StackSettings(RoomSettings):
    """The embedded stack."""

    #: Port of Flower on the loopback interface; 0 means any free one.
    flower_port: Annotated[int, Field(ge=0, le=65535)] = 0
    #: Flower's password, for the user `pneumoscreen`. Empty: made at first start and kept in the
    #: secrets folder.
    flower_password: SecretStr = SecretStr("")
    #: Batches that the screening worker holds at a time: one computes while the next decodes.
    worker_batches: Annotated[int, Field(ge=1)] = 2
    #: Seconds that a process has to finish what it holds when the stack stops.
    stop_seconds: Annotated[int, Field(ge=1)] = 120
