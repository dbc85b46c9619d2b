"""Patient IDs as keyed pseudonyms."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from db.settings import home

_KEY_BYTES = 32


def pseudonym(patient_id: str) -> str:
    """Return HMAC-SHA256 of a Patient ID under the site's key, hexadecimal.

    Without the key nobody can tell whose it is, not even by trying every possible ID.
    """
    return hmac.new(_site_key(home() / "site.key"), patient_id.strip().encode(), hashlib.sha256).hexdigest()


@functools.cache
def _site_key(file: Path) -> bytes:
    """Return the site's key, made at first use; keep `site.key` with the backups of the job table."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".site.key.{secrets.token_hex(8)}")
    partial.touch(mode=0o600)
    partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
    # Linking fails where a key is there: of two that start at once, both use the first one's.
    with suppress(FileExistsError):
        os.link(partial, file)
    partial.unlink()
    return file.read_bytes()
