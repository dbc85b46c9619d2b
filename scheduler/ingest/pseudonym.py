"""Patient IDs as keyed pseudonyms."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets

from db.settings import home

_KEY_BYTES = 32


def pseudonym(patient_id: str) -> str:
    """Return HMAC-SHA256 of a Patient ID under the site's key, hexadecimal.

    Without the key nobody can tell whose it is, not even by trying every possible ID.
    """
    return hmac.new(_site_key(), patient_id.strip().encode(), hashlib.sha256).hexdigest()


@functools.cache
def _site_key() -> bytes:
    """Return the site's key, made at first use; keep `site.key` with the backups of the job table."""
    file = home() / "site.key"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # Exclusive: of two processes that start at once, one makes the key and both use it.
        partial = file.with_name(f".site.key.{os.getpid()}")
        partial.touch(mode=0o600, exist_ok=True)
        partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
        os.link(partial, file)
    except FileExistsError:
        pass
    finally:
        partial.unlink(missing_ok=True)
    return file.read_bytes()
