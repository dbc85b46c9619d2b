"""Settings of the broker and of the screening worker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from db.settings import RoomSettings


class BrokerSettings(RoomSettings):
    """The broker."""

    #: URL of a Redis or Valkey server, `redis://` or, with TLS, `rediss://`. The embedded stack
    #: writes its own into the secrets folder.
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")


class WorkerSettings(RoomSettings):
    """The screening worker."""

    #: Seconds without a sign of life after which a batch is given to another worker. A heartbeat
    #: is sent five times as often, so five in a row must be missed; longer delays the recovery.
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Images in one forward pass. 16 fill two CPU cores; a GPU wants 64 to 256.
    forward_images: Annotated[int, Field(ge=1)] = 16
    #: Threads that read and decode files; 0 means one for each core.
    decode_threads: Annotated[int, Field(ge=0)] = 0
    #: Number format of the forward pass. `adaptive` computes in bfloat16 where the device has it, and
    #: once more in fp32 whatever is not clear-cut: half the time, the labels of fp32, and probabilities
    #: that differ by less than 0.01, all of them next to 0 or 1. `fp32` computes everything in fp32.
    #: Each prediction says which it was.
    precision: Literal["adaptive", "fp32"] = "adaptive"
    #: Largest width times height that is decoded, in pixels: a decompression bomb is refused before
    #: it takes memory. The largest radiography detectors have about 20 million.
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    #: Largest file that is read, in bytes. A 16-bit radiograph of 20 million pixels has 40 million.
    max_file_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
