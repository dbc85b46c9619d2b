"""Settings of Flower."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from db.settings import RoomSettings


class FlowerSettings(RoomSettings):
    """Flower."""

    #: Address that Flower listens on.
    flower_host: str = "127.0.0.1"
    #: Port of Flower; the embedded stack takes a free one where this is 0.
    flower_port: Annotated[int, Field(ge=0, le=65535)] = 0
    #: User that logs in to Flower.
    flower_user: str = "pneumoscreen"
    #: Flower's password. The embedded stack makes one at first start and keeps it in the secrets folder;
    #: without one Flower does not start.
    flower_password: SecretStr = SecretStr("")
    #: Key of its cookies, so that they outlive a restart; made like the password.
    flower_cookie_secret: SecretStr = SecretStr("")
    #: Whether it only shows. Otherwise whoever logs in can send tasks; workers take no commands from anybody.
    flower_read_only: bool = True
    #: Whether it answers `/metrics`, which it does without a login.
    flower_metrics: bool = False
    #: Whether it remembers tasks over a restart, in `flower` in the data directory. The file is a shelf, and
    #: reading it runs what is in it: one that others than Flower's user could have written is not read.
    flower_persistent: bool = True
