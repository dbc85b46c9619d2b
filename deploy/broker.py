"""The configuration of the embedded broker, a Valkey."""

from __future__ import annotations

import hashlib

#: The one user that may log in.
USER = "pneumoscreen"

#: What Celery needs, and nothing that administers the server; as in `deploy/make-secrets.sh`. Of Lua what
#: kombu needs for its own scripts.
RIGHTS = "~* &* +@all -@admin -@dangerous -@scripting +evalsha +script|exists +script|load +info +keys"


def valkey_config(port: int, password: str, memory_mib: int) -> str:
    """Return Valkey's configuration: loopback, one user, and nothing kept on disk; it holds no secret.

    The job table is the truth; a broker that forgets everything costs nothing but a second notice.
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
            # Refusing a message is noticed; evicting one is not.
            "maxmemory-policy noeviction",
            # A title would be written over the environment, whose mark tells whose process it is.
            "set-proc-title no",
            # The folder that supervisord starts it in: a path of the user's may hold what this file cannot.
            "dir ../broker",
            "",
        )
    )
