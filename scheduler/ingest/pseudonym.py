"""Keyed pseudonyms of Patient IDs, UIDs and places."""

from __future__ import annotations

import functools
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from db.atomic import needs_room, write_whole
from db.engine import Database
from db.errors import PneumoscreenError
from db.settings import home
from db.text import counted
from db.upkeep.site_key import holds_pseudonyms, key_fingerprint, note_key, replace_key

_KEY_BYTES = 32


class SiteKeyUnusable(PneumoscreenError):
    """`site.key`, the key of the pseudonyms, cannot be read or made. Restore it from a backup."""

    code = "site-key-unusable"


class SiteKeyMissing(PneumoscreenError):
    """The pseudonyms' `site.key` is missing. Restore it from a backup, or if it is lost run `db new-key`.

    A new key gives the same patients other pseudonyms: exports no longer match the earlier ones.
    """

    code = "site-key-missing"


class SiteKeyDiffers(PneumoscreenError):
    """The pseudonyms were made with another `site.key`. Restore that one, or if it is lost run `db new-key`.

    Hosts that share a job table share the key: copy it from the host that has it.
    """

    code = "site-key-differs"


def pseudonym(patient_id: str) -> str:
    """Return HMAC-SHA256 of a Patient ID under the site's key, hexadecimal.

    Without the key nobody can find the patient, not even by trying every possible ID. Raises
    SiteKeyMissing, SiteKeyUnusable.
    """
    return _digest(_site_key(home() / "site.key"), patient_id.strip())


def uid_pseudonym(uid: str) -> str:
    """Return the pseudonym of a Study, Series or SOP Instance UID; no Patient ID has the same one."""
    return uid_pseudonyms()(uid)


def uid_pseudonyms() -> Callable[[str], str]:
    """Return `uid_pseudonym` for many rows: the key is derived once, recent UIDs are cached."""
    file = home() / "site.key"
    key = functools.cache(lambda: _derived_key(file, b"uid"))  # a cohort without UIDs needs no key
    return functools.lru_cache(maxsize=1024)(lambda uid: _digest(key(), uid))


def place_pseudonym(place: str) -> str:
    """Return the pseudonym of a path or a URL."""
    return _digest(_derived_key(home() / "site.key", b"place"), place)


def ensure_site_key(database: Database) -> None:
    """Check that the data directory has the key of the job table's pseudonyms; make one for a new job table.

    Raises SiteKeyMissing, SiteKeyDiffers, SiteKeyUnusable, DiskFull.
    """
    file = home() / "site.key"
    _site_key.cache_clear()  # the file may have been restored or replaced since
    with database.read() as session:
        noted = key_fingerprint(session)
        was_used = noted is not None or (not file.exists() and holds_pseudonyms(session))
    if not was_used:
        _make(file)
    key = _site_key(file)
    if noted is None:
        with database.write() as session:
            noted = note_key(session, _fingerprint(key))
    if noted != _fingerprint(key):
        raise SiteKeyDiffers


def new_site_key(database: Database) -> None:
    """Make `site.key` if it is missing, and use it for all pseudonyms from now on, whatever the old key was.

    Raises SiteKeyUnusable, DiskFull.
    """
    file = home() / "site.key"
    _make(file)
    _site_key.cache_clear()
    with database.write() as session:
        replace_key(session, _fingerprint(_site_key(file)))


def _fingerprint(key: bytes) -> str:
    """Return a digest that identifies a key and tells nothing else about it."""
    return hmac.digest(b"fingerprint", key, "sha256").hex()


def _digest(key: bytes, text: str) -> str:
    # A damaged header or a file's name may hold surrogates, which are no valid text.
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _derived_key(file: Path, purpose: bytes) -> bytes:
    """Return a key for one purpose only, by the extract step of HKDF (RFC 5869, section 2.2)."""
    return hmac.digest(purpose, _site_key(file), "sha256")


@functools.cache
def _site_key(file: Path) -> bytes:
    """Return the site's key; keep `site.key` with the backups of the job table.

    Raises SiteKeyMissing, SiteKeyUnusable.
    """
    try:
        key = file.read_bytes()
    except FileNotFoundError:
        raise SiteKeyMissing from None
    except OSError as error:
        raise SiteKeyUnusable(type(error).__name__) from None
    if len(key) != _KEY_BYTES:
        # A truncated key would make other pseudonyms, and an empty one could be guessed.
        raise SiteKeyUnusable(counted(len(key), "byte"))
    return key


def _make(file: Path) -> None:
    """Make a key if there is none; of two processes that start at once, both use the key of the first."""
    if file.exists():
        return
    try:
        with needs_room(), suppress(FileExistsError):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with write_whole(file, replace=False) as new:
                new.write(secrets.token_bytes(_KEY_BYTES))
    except OSError as error:
        raise SiteKeyUnusable(type(error).__name__) from None
