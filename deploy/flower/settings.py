"""Settings of Flower."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from db.settings import RoomSettings


class FlowerSettings(RoomSettings):
    """Flower."""

    #: Address that Flower listens on.
    flower_host: str = "127.0.0.1"
    #: Port of Flower. If it is 0, the embedded stack takes a free one, and the same one at its next start.
    flower_port: Annotated[int, Field(ge=0, le=65535)] = 0
    #: User name for Flower.
    flower_user: str = "pneumoscreen"
    #: Flower's password; without one Flower does not start. The embedded stack makes one at its first start
    #: and keeps it in the secrets folder.
    flower_password: SecretStr = SecretStr("")
    #: Key of Flower's cookies, so that they stay valid after a restart; made like the password.
    flower_cookie_secret: SecretStr = SecretStr("")
    #: Whether Flower is read-only. If not, every user who logs in can send tasks. Workers take no commands
    #: from Flower in either case.
    flower_read_only: bool = True
    #: Whether Flower answers `/metrics`, which needs no login.
    flower_metrics: bool = False
    #: Whether Flower keeps its tasks over a restart, in `flower` in the data directory. The file is a shelf,
    #: and reading a shelf can run code: if another user could have written it, it is not read.
    flower_persistent: bool = True
