"""Patient IDs, UIDs and places as keyed pseudonyms."""

from __future__ import annotations

import functools
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from db.disk import needs_room
from db.errors import PneumoscreenError
from db.settings import home

_KEY_BYTES = 32


class SiteKeyUnusable(PneumoscreenError):
    """The key of the pseudonyms, `site.key`, cannot be read or made. Bring it back from a backup."""

    code = "site-key-unusable"


def pseudonym(patient_id: str) -> str:
    """Return HMAC-SHA256 of a Patient ID under the site's key, hexadecimal.

    Without the key nobody can tell whose it is, not even by trying every possible ID. Raises SiteKeyUnusable.
    """
    return _digest(_site_key(home() / "site.key"), patient_id.strip())


def uid_pseudonym(uid: str) -> str:
    """Return the same of a Study, Series or SOP Instance UID; no Patient ID has the pseudonym of a UID."""
    return uid_pseudonyms()(uid)


def uid_pseudonyms() -> Callable[[str], str]:
    """Return `uid_pseudonym` for many rows: the key is derived once, the last studies are remembered."""
    file = home() / "site.key"
    key = functools.cache(lambda: _derived_key(file, b"uid"))  # a cohort without UIDs needs none
    return functools.lru_cache(maxsize=1024)(lambda uid: _digest(key(), uid))


def place_pseudonym(place: str) -> str:
    """Return the same of a path or a URL."""
    return _digest(_derived_key(home() / "site.key", b"place"), place)


def make_site_key() -> None:
    """Make `site.key` in the data directory where there is none yet. Raises SiteKeyUnusable."""
    _site_key(home() / "site.key")


def _digest(key: bytes, text: str) -> str:
    # A damaged header or a name of a file may hold what is no text.
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _derived_key(file: Path, purpose: bytes) -> bytes:
    """Return a key for one purpose alone, by the extraction of HKDF (RFC 5869, section 2.2)."""
    return hmac.digest(purpose, _site_key(file), "sha256")


@functools.cache
def _site_key(file: Path) -> bytes:
    """Return the site's key, made at first use; keep `site.key` with the backups of the job table.

    Raises SiteKeyUnusable, DiskFull.
    """
    try:
        with needs_room():
            key = file.read_bytes() if file.exists() else _make(file)
    except OSError as error:
        raise SiteKeyUnusable(type(error).__name__) from None
    if len(key) != _KEY_BYTES:
        # Cut off or emptied: its pseudonyms would be others, or could be found by trying.
        raise SiteKeyUnusable(f"{len(key)} bytes")
    return key


def _make(file: Path) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".site.key.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(secrets.token_bytes(_KEY_BYTES))
            new.flush()
            # A key that a power cut takes back would leave pseudonyms that nobody can make again.
            os.fsync(new.fileno())
        # Linking fails where a key is there: of two that start at once, both use the first one's.
        with suppress(FileExistsError):
            os.link(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file.read_bytes()
