"""Settings of the metrics server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class MetricsSettings(RoomSettings):
    """The metrics server: `/metrics`, `/healthz` and `/readyz`."""

    #: Address that the server listens on. It has no login: open it to the monitoring network only.
    metrics_host: str = "127.0.0.1"
    #: Port. If it is 0, the embedded stack takes a free one, and the same one at its next start.
    metrics_port: Annotated[int, Field(ge=0, lt=65536)] = 0
    #: Seconds between two requests to the broker and the workers; scrapes between them get the last answer.
    metrics_broker_seconds: Annotated[float, Field(gt=0)] = 15.0
