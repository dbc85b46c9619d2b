"""What the listing of a source leaves out: folders of systems, closed folders, and links to folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Self

from pydantic import field_validator

from db.settings import RoomSettings

#: Folders in which systems keep thumbnails, snapshots, deleted files and their own data. `*` stands for any
#: characters.
SYSTEM_FOLDERS = (
    # Synology DSM.
    "@eaDir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@sharesnap", "@SynoResource",
    # QNAP QTS.
    "@Recycle", "@Recently-Snapshot", "@Transcode", "@__thumb", ".@__thumb",
    # NetApp, ZFS, snapper, Samba and Windows' previous versions.
    ".snapshot", "~snapshot", ".snapshots", ".zfs", ".recycle", "@GMT-*",
    # Asustor, Buffalo, TerraMaster, Western Digital.
    "Recycle Bin - *", "trashbox", ".wdmc",
    # Windows.
    "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "$Extend", "DfsrPrivate",
    "FOUND.0*",
    # macOS, also what it writes to the shares of other systems.
    "__MACOSX", ".AppleDouble", ".AppleDB", ".AppleDesktop", ".Trashes", ".Trash", ".Spotlight-V100",
    ".fseventsd", ".DocumentRevisions-V100", ".TemporaryItems", "Temporary Items", "Network Trash Folder",
    "TheVolumeSettingsFolder", "TheFindByContentFolder",
    # Linux: the freedesktop.org trash specification 1.0, and ext's file system check.
    ".Trash-*", "lost+found",
    # Cameras, viewers and programs that synchronise folders.
    ".thumbnails", "Thumbnails", "Thumbs", ".thumbs", ".xvpics", ".picasaoriginals", ".dtrash",
    ".sync", ".stversions", ".dropbox.cache", "files_trashbin",
)  # fmt: skip

#: The count of hidden folders that are not well known. Their names may be a patient's, so they are not told.
HIDDEN = "other hidden folders"


class WalkSettings(RoomSettings):
    """Settings of the walk through folders."""

    #: Names of folders that are not walked, in addition to hidden folders (a leading dot) and those that NAS
    #: systems, macOS, Windows and viewers keep thumbnails, snapshots and deleted files in. As in
    #: `["previews", "old-*"]`; upper and lower case are the same, `*` stands for any characters. Empty:
    #: only a site knows which names it uses. A folder that is named as the source itself is always walked.
    skipped_folders: tuple[str, ...] = ()

    @field_validator("skipped_folders")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any("/" in name or not name.strip("*. ") for name in names):
            raise ValueError("a name of a folder is needed, neither a path nor every folder")
        return names


class Omissions:
    """What the listing of a source leaves out, counted while it is listed."""

    def __init__(self, skipped: Iterable[str] = ()) -> None:
        """Leave out the folders of systems, and those with the names `skipped`."""
        names = [*SYSTEM_FOLDERS, *skipped]
        self._names = {name.casefold(): name for name in names if not _is_pattern(name)}
        self._patterns = {_compile(name): name for name in names if _is_pattern(name)}
        #: Folders that are not walked, by the name or pattern that they match.
        self.folders: Counter[str] = Counter()
        #: Folders that this user has no permission to list. Their images get no row.
        self.closed = 0
        #: Links to folders. They are not followed, so that no loop is possible.
        self.links = 0

    @classmethod
    def read(cls) -> Self:
        """Return one with the names of the settings. Raises SettingsInvalid."""
        return cls(WalkSettings.read().skipped_folders)

    def skips(self, name: str) -> bool:
        """Whether a folder below the source is not walked, by its name. Counts it if so."""
        matched = self._match(name.casefold())
        if matched is not None:
            self.folders[matched] += 1
        return matched is not None

    def _match(self, name: str) -> str | None:
        if name in self._names:
            return self._names[name]
        for pattern, label in self._patterns.items():
            if pattern.fullmatch(name):
                return label
        return HIDDEN if name.startswith(".") else None


def _is_pattern(name: str) -> bool:
    return "*" in name


def _compile(name: str) -> re.Pattern[str]:
    """Return a pattern in which only `*` is special."""
    return re.compile(".*".join(re.escape(part.casefold()) for part in name.split("*")), re.DOTALL)
