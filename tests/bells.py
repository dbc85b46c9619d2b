"""Bells that a test can look at."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ListBell:
    """Notes whom it rings for; its queue holds `messages` that nobody takes."""

    rung: list[int] = field(default_factory=list)
    messages: int = 0

    def ring(self, row_id: int) -> None:
        self.rung.append(row_id)
        self.messages += 1

    def waiting(self) -> int:
        return self.messages
