"""Where images may lie: folders and URLs that are set, and nothing that a link or `..` reaches from there."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import SplitResult, urlsplit

from pydantic import field_validator

from db.errors import PneumoscreenError
from db.jobs.problems import FileUnreadable, FileVanished, OutsideRoots, PathTooLong
from db.settings import RoomSettings
from worker.files.remote import RemoteUrlInvalid, check_url, is_remote

_PORTS = {"http": 80, "https": 443, "sftp": 22}

#: A folder on the way to a file need not be readable, where the system knows the difference.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


class SourceOutsideRoots(PneumoscreenError):
    """The source lies outside `PNEUMOSCREEN_SOURCE_ROOTS`. Move it into one of them, or add its folder."""

    code = "source-outside-roots"


class RootSettings(RoomSettings):
    """Where images may lie."""

    #: Folders and URLs below which sources and their files must lie, as in `["/images", "s3://trial-7/cr"]`.
    #: Links, `..` and redirects that lead out of them are refused, by the scheduler and again by each worker,
    #: which is asked for the places where it has the files itself (see `path_map`). Empty: wherever the user
    #: who runs it may read, so that one machine works as it is; an installation for many should set it.
    source_roots: tuple[str, ...] = ()

    @field_validator("source_roots")
    @classmethod
    def _can_be_checked(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            if is_remote(root):
                try:
                    check_url(root)
                except RemoteUrlInvalid:
                    raise ValueError("a root is not a URL that could be a source") from None
            elif not Path(root).is_absolute() or ".." in Path(root).parts:
                raise ValueError("a root is not an absolute path")
        return roots


@dataclass(frozen=True, slots=True)
class Roots:
    """The places that images may come from; without any, they may come from everywhere."""

    places: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Self:
        """Return those that are set. Raises SettingsInvalid."""
        return cls(RootSettings.read().source_roots)

    def check(self, where: Path | str) -> None:
        """Raise OutsideRoots where a path really, links followed, or a URL by its name lies outside."""
        if isinstance(where, str):
            self.check_url(where)
        elif self.places:
            self._split(where)

    def check_url(self, url: str) -> None:
        """Raise OutsideRoots for a URL that lies below none of the roots."""
        if self.places and not any(_is_below(url, root) for root in self.places if is_remote(root)):
            raise OutsideRoots

    def folders_beside(self, url: str) -> tuple[str, ...] | None:
        """Return the paths of the roots on a URL's server; None without any restriction."""
        if not self.places:
            return None
        return tuple(
            urlsplit(root).path or "/"
            for root in self.places
            if is_remote(root) and _is_same_server(urlsplit(url), urlsplit(root))
        )

    def open_file(self, path: Path) -> FileIO:
        """Open a regular file, unbuffered, that really lies inside, whatever is swapped meanwhile.

        Raises OutsideRoots, FileVanished, PathTooLong, FileUnreadable.
        """
        try:
            file = FileIO(path, opener=self._open)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise FileUnreadable
        except (FileNotFoundError, NotADirectoryError):
            raise FileVanished from None
        except OSError as error:
            raise (PathTooLong if error.errno == errno.ENAMETOOLONG else FileUnreadable) from None
        except ValueError:
            raise FileUnreadable from None
        return file

    def _open(self, path: str, flags: int) -> int:
        # Without waiting: a pipe would hold us until somebody writes to it.
        flags |= getattr(os, "O_NONBLOCK", 0)
        if not self.places:
            return os.open(path, flags)
        root, (*folders, name) = self._split(Path(path))
        # From folder to folder by what is open, following nothing: a link that has been put in the place of
        # any part of the path since it was resolved is an error here.
        folder = os.open(root, _FOLDER)
        try:
            for part in folders:
                outer = folder
                folder = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
                os.close(outer)
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)

    def _split(self, path: Path) -> tuple[Path, tuple[str, ...]]:
        """Return the root that a path really lies in, and the way from there. Raises OutsideRoots."""
        if not path.is_absolute() or ".." in path.parts:
            raise OutsideRoots
        real = Path(os.path.realpath(path))
        for place in self.places:
            if not is_remote(place) and real.is_relative_to(root := Path(os.path.realpath(place))):
                return root, real.relative_to(root).parts or (".",)
        raise OutsideRoots


#: No restriction.
EVERYWHERE = Roots()


def _is_below(url: str, root: str) -> bool:
    """Tell whether a URL lies in another, by whole folders, on the same server."""
    try:
        check_url(url)
    except RemoteUrlInvalid:
        return False
    one, other = urlsplit(url), urlsplit(root)
    return _is_same_server(one, other) and PurePosixPath(one.path or "/").is_relative_to(
        PurePosixPath(other.path or "/")
    )


def _is_same_server(one: SplitResult, root: SplitResult) -> bool:
    return (
        one.scheme == root.scheme
        and one.hostname == root.hostname
        and (one.port or _PORTS.get(one.scheme)) == (root.port or _PORTS.get(root.scheme))
        and root.username in (None, one.username)
    )
