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

    #: URL of a Redis or Valkey server: `redis://`, or `rediss://` with TLS. The embedded stack writes the
    #: URL of its own broker into the secrets folder.
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    #: File with the CA certificates that check the certificate of a `rediss://` broker. Empty: the system's.
    broker_ca_file: str = ""
    #: File with the client certificate, if the broker requires one.
    broker_cert_file: str = ""
    #: File with the key of the client certificate.
    broker_key_file: str = ""

    @property
    def url(self) -> str:
        """The URL in use. Raises BrokerUrlInvalid if libraries would print parts of a password."""
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
        """TLS options of kombu and redis; None for `redis://`. The broker's certificate is always checked."""
        if not self.broker_url.get_secret_value().startswith("rediss://"):
            return None
        files = {
            "ssl_ca_certs": self.broker_ca_file,
            "ssl_certfile": self.broker_cert_file,
            "ssl_keyfile": self.broker_key_file,
        }
        # Older versions of redis, too, must refuse a certificate of the same CA for another host.
        checked = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
        return checked | {name: file for name, file in files.items() if file}


class WorkerSettings(RoomSettings):
    """The screening worker."""

    #: Seconds without a heartbeat after which the lease of a batch expires and the batch is requeued. Five
    #: heartbeats are sent in this time, so five in a row must be missed. A longer time delays the recovery.
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Seconds before a source, model or device that is unavailable is tried again. The longer it is
    #: unavailable, the longer is the pause, up to ten times this value: a mount that comes back is used
    #: within five minutes.
    wait_seconds: Annotated[float, Field(gt=0)] = 30.0
    #: Days after which images fail if their source, model or device is still unavailable. With a week, a
    #: fault at the beginning of a long weekend is noticed and fixed before images fail that could be
    #: screened.
    wait_days: Annotated[float, Field(gt=0)] = 7.0
    #: Images in each forward pass. 16 keep two CPU cores busy; a GPU needs 64 to 256. With the runtime
    #: `torch`, black pictures fill up a pass that is not full, so that the probability of an image does not
    #: depend on the images beside it. With another number, or another number of cores, probabilities of
    #: `torch` may differ by about 0.000001, and those of `openvino` do not.
    forward_images: Annotated[int, Field(ge=1)] = 16
    #: Threads that read files, each with a process that decodes them; 0 means one for each core.
    decode_threads: Annotated[int, Field(ge=0)] = 0
    #: Library that computes the forward pass. `auto` takes `openvino` if it is installed and the machine has
    #: no GPU, else `torch`. Probabilities of the two differ by less than 0.0001 in fp32. The library is
    #: stored with each prediction.
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    #: Number format of the forward pass. `adaptive` computes in int8 or bfloat16 if the device is fast in
    #: it and the model's card says how far it moves the model's results, and computes what that leaves in
    #: doubt again in fp32. The labels are those of fp32. Probabilities differ from fp32 by less than 0.01,
    #: and only if they are next to 0 or 1. `fp32` computes everything in fp32. The number format is stored
    #: with each prediction.
    precision: Literal["adaptive", "fp32"] = "adaptive"
    #: What becomes of a picture that is less like the model's training pictures than 99% of pictures of the
    #: same hospital. `flag` keeps its prediction, with the caution `unfamiliar`, so that a person decides.
    #: `skip` gives it no prediction; the image is skipped with the code `unfamiliar`. A model without
    #: statistics finds no picture unfamiliar.
    unfamiliar: Literal["flag", "skip"] = "flag"
    #: Folders and URLs that have another place on this host: the beginning of a path or URL in the job
    #: table, and its replacement here, as in `{"/mnt/pacs" = "/data/pacs"}`. The longest beginning that fits
    #: is used.
    path_map: Annotated[dict[str, str], Field(default_factory=dict)]
    #: Every image of the sources is a chest film. Set it if digitised films come as Modality OT or SC and do
    #: not name the chest: without it they are skipped as `not-radiograph`, as photographs and screenshots
    #: have the same modality.
    chest_only: bool = False
    #: Largest width times height that is decoded, in pixels: a decompression bomb is refused before
    #: it takes memory. The largest radiography detectors have about 20 million.
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    #: Seconds that the decoding of one image may take. The largest images take about five; a decoder that
    #: takes a minute hangs.
    decode_seconds: Annotated[float, Field(gt=0)] = 60.0
    #: Address space of a decoding process, in bytes. Libraries take 0.5 GiB of it, and an image of
    #: `max_pixels` takes up to 3 GiB.
    decoder_memory_bytes: Annotated[int, Field(ge=2**29)] = 4 * 2**30
    #: Largest file that is read, in bytes. A 16-bit radiograph of 20 million pixels has 40 million bytes.
    max_file_bytes: Annotated[int, Field(ge=1)] = 512 * 1024 * 1024
