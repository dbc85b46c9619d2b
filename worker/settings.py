"""Settings of the broker and of the screening worker."""

from __future__ import annotations

import re
import ssl
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from db.errors import PneumoscreenError
from db.settings import RoomSettings


class BrokerUrlInvalid(PneumoscreenError):
    """`PNEUMOSCREEN_BROKER_URL` is not a URL like `redis://host:6379/0`. Percent-encode its password."""

    code = "broker-url-invalid"


class BrokerSettings(RoomSettings):
    """The broker."""

    #: URL of a Redis or Valkey server, `redis://` or, with TLS, `rediss://`. The embedded stack
    #: writes its own into the secrets folder.
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    #: File with the certificates that a `rediss://` broker's is checked against. Empty: the system's.
    broker_ca_file: str = ""
    #: File with a certificate of our own, where the broker asks for one.
    broker_cert_file: str = ""
    #: Its key.
    broker_key_file: str = ""

    @property
    def url(self) -> str:
        """The URL in use. Raises BrokerUrlInvalid where libraries would print parts of a password."""
        url = self.broker_url.get_secret_value()
        try:
            parts = urlsplit(url)
            port_is_number = parts.port is None or parts.port > 0
        except ValueError:
            raise BrokerUrlInvalid from None
        is_database = parts.scheme not in ("redis", "rediss") or re.fullmatch(r"/?[0-9]*", parts.path)
        if not port_is_number or not is_database or "@" in parts.path + parts.query + parts.fragment:
            raise BrokerUrlInvalid
        return url

    @property
    def tls(self) -> dict[str, Any] | None:
        """What kombu and redis need to know of TLS; None for `redis://`. The broker is always checked."""
        if not self.broker_url.get_secret_value().startswith("rediss://"):
            return None
        files = {
            "ssl_ca_certs": self.broker_ca_file,
            "ssl_certfile": self.broker_cert_file,
            "ssl_keyfile": self.broker_key_file,
        }
        # For redis' older versions, too, a certificate of another host of the same CA is none.
        checked = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
        return checked | {name: file for name, file in files.items() if file}


class WorkerSettings(RoomSettings):
    """The screening worker."""

    #: Seconds without a sign of life after which a batch is given to another worker. A heartbeat
    #: is sent five times as often, so five in a row must be missed; longer delays the recovery.
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Seconds before a source, model or device that is unavailable is tried again. The pause grows with the
    #: wait, up to ten times this, so that a mount that comes back is used within five minutes.
    wait_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Days after which images whose source, model or device is unavailable fail. A week: whatever breaks at
    #: the beginning of a long weekend is noticed and fixed before images fail that could be screened.
    wait_days: Annotated[float, Field(gt=0)] = 7.0
    #: Images in each forward pass; a pass that is not full is filled up, so that an image has the same
    #: probability whatever is screened beside it. 16 fill two CPU cores; a GPU wants 64 to 256. With another
    #: number, as with another number of cores, probabilities may differ by about 0.000001.
    forward_images: Annotated[int, Field(ge=1)] = 16
    #: Threads that read files, each with a process that decodes them; 0 means one for each core.
    decode_threads: Annotated[int, Field(ge=0)] = 0
    #: Number format of the forward pass. `adaptive` computes in bfloat16 where the device has it, and
    #: once more in fp32 whatever is not clear-cut: half the time, the labels of fp32, and probabilities
    #: that differ by less than 0.01, all of them next to 0 or 1. `fp32` computes everything in fp32.
    #: Each prediction says which it was.
    precision: Literal["adaptive", "fp32"] = "adaptive"
    #: Where this host has what others have elsewhere: the beginning of a path or URL in the job table, and
    #: what stands there here, as in `{"/mnt/pacs" = "/data/pacs"}`. The longest beginning counts.
    path_map: Annotated[dict[str, str], Field(default_factory=dict)]
    #: Largest width times height that is decoded, in pixels: a decompression bomb is refused before
    #: it takes memory. The largest radiography detectors have about 20 million.
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    #: Seconds that decoding one image may take. The largest take about five; what takes a minute hangs.
    decode_seconds: Annotated[float, Field(gt=0)] = 60.0
    #: Address space of a decoding process, in bytes: what one image may take beside 0.5 GiB of libraries. An
    #: image of `max_pixels` takes up to 3 GiB.
    decoder_memory_bytes: Annotated[int, Field(ge=2**29)] = 4 * 2**30
    #: Largest file that is read, in bytes. A 16-bit radiograph of 20 million pixels has 40 million.
    max_file_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
