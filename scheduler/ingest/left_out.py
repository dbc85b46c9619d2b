"""What an intake leaves out of a source: counts of files, links and folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from db.text import counted
from scheduler.ingest.recognition import is_hidden, suffix_of

#: Kinds of ignored files that are counted by themselves. What a folder holds beside images has few kinds.
_MOST_KINDS = 20

#: The kind of all other files.
_OTHERS = "others"

#: Suffixes that are told: short, and not of digits alone. Others may be a part of a patient's name, a date or
#: a UID.
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,7}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What an intake leaves out of a source. It names nothing that may be a patient's."""

    #: Files that are not images.
    ignored: int = 0
    #: The same by kind: a suffix, `without suffix`, `hidden`, `unreadable` or `others`.
    ignored_kinds: Mapping[str, int] = field(default_factory=dict)
    #: Links to folders, which are not followed.
    links_to_folders: int = 0
    #: Folders that are not walked, by name: thumbnails, snapshots, bins and hidden folders.
    skipped_folders: Mapping[str, int] = field(default_factory=dict)
    #: Folders that this user has no permission to list.
    closed_folders: int = 0

    def __bool__(self) -> bool:
        return bool(self.ignored or self.links_to_folders or self.skipped_folders or self.closed_folders)

    def as_text(self) -> str:
        """Return it as sentences."""
        text = f"{counted(self.ignored, 'other file')} ignored"
        if self.ignored_kinds:
            text += ": " + ", ".join(f"{count} {kind}" for kind, count in _sorted(self.ignored_kinds))
        if self.links_to_folders:
            links = counted(self.links_to_folders, "link to a folder", "links to folders")
            text += f"; {links} not followed"
        return f"{text}. {self.folders_as_text()}".rstrip()

    def folders_as_text(self) -> str:
        """Return sentences on folders alone; empty if all were walked."""
        sentences = []
        if self.skipped_folders:
            named = ", ".join(f"{name} ({count})" for name, count in _sorted(self.skipped_folders))
            sentences.append(f"Folders not walked: {named}.")
        if self.closed_folders:
            sentences.append(f"Folders that may not be read: {self.closed_folders}.")
        return " ".join(sentences)


class IgnoredFiles:
    """Counts of files that are no images, by kind, in little memory however many kinds there are."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Files that were counted."""
        return sum(self.kinds.values())

    def add(self, name: str, *, readable: bool) -> None:
        """Count a file by its name."""
        kind = _kind(name) if readable else "unreadable"
        if kind not in self.kinds and len(self.kinds) >= _MOST_KINDS:
            kind = _OTHERS
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


def _kind(name: str) -> str:
    if is_hidden(name):
        return "hidden"
    suffix = suffix_of(name)
    if not suffix:
        return "without suffix"
    return suffix if _SUFFIX.fullmatch(suffix) else _OTHERS


def _sorted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the greatest counts first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
