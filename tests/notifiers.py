"""Notifiers that a test can inspect."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ListNotifier:
    """A notifier that records the ids of rows. Its queue holds `messages`, which no worker consumes."""

    notified: list[int] = field(default_factory=list)
    messages: int = 0

    def notify(self, row_id: int) -> None:
        self.notified.append(row_id)
        self.messages += 1

    def waiting(self) -> int:
        return self.messages
