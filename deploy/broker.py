"""The configuration of the embedded broker, a Valkey."""

from __future__ import annotations

import hashlib

#: The one user that may log in.
USER = "pneumoscreen"

#: The rights that Celery needs, without those that administer the server; as in `deploy/make-secrets.sh`. The
#: SCRIPT and EVALSHA commands are for kombu's own Lua scripts.
RIGHTS = "~* &* +@all -@admin -@dangerous -@scripting +evalsha +script|exists +script|load +info +keys"


def valkey_config(port: int, password: str, memory_mib: int) -> str:
    """Return Valkey's configuration: loopback, one user, and nothing kept on disk; it holds no secret.

    If the broker loses its messages, workers are notified again from the job table.
    """
    digest = hashlib.sha256(password.encode()).hexdigest()
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {port}",
            "protected-mode yes",
            "user default off",
            f"user {USER} on #{digest} {RIGHTS}",
            'save ""',
            "appendonly no",
            f"maxmemory {memory_mib}mb",
            # The sender notices a refused message, but nobody notices an evicted one.
            "maxmemory-policy noeviction",
            # A title would overwrite the environment, whose mark names the data directory.
            "set-proc-title no",
            # Relative to `run`, where it starts: a user's path may hold characters that this file cannot.
            "dir ../broker",
            "",
        )
    )
