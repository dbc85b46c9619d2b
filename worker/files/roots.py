"""The roots: folders and URLs that images must lie in, also after links, `..` and redirects are followed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import SplitResult, urlsplit

from pydantic import field_validator

from db.errors import PneumoscreenError
from db.jobs.problems import OutsideRoots
from db.settings import RoomSettings
from worker.files.url import RemoteUrlInvalid, check_url, is_local

_PORTS = {"http": 80, "https": 443, "sftp": 22}


class SourceOutsideRoots(PneumoscreenError):
    """The source lies outside `PNEUMOSCREEN_SOURCE_ROOTS`. Move it into one of them, or add its folder."""

    code = "source-outside-roots"


class RootSettings(RoomSettings):
    """Settings of the roots."""

    #: Folders and URLs below which sources and their files must lie, as in `["/images", "s3://trial-7/cr"]`.
    #: Links, `..` and redirects that lead out of them are refused, by the scheduler and again by each worker.
    #: On a worker with a `path_map`, name the places of the files on its own host. Empty: all files that the
    #: process may read, so that one machine needs no setting. An installation for many users should set it.
    source_roots: tuple[str, ...] = ()

    @field_validator("source_roots")
    @classmethod
    def _can_be_checked(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            if is_local(root):
                if not Path(root).is_absolute() or ".." in Path(root).parts:
                    raise ValueError("a root is not an absolute path")
                continue
            try:
                check_url(root)
            except RemoteUrlInvalid:
                raise ValueError("a root is not a URL that could be a source") from None
        return roots


@dataclass(frozen=True, slots=True)
class Roots:
    """The places that images must lie in; without any, they may lie everywhere."""

    places: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Self:
        """Return the roots of the settings. Raises SettingsInvalid."""
        return cls(RootSettings.read().source_roots)

    def check_path(self, path: Path) -> None:
        """Raise OutsideRoots if a path, with its links resolved, lies in none of the roots."""
        if self.places:
            self.split(path)

    def check_url(self, url: str) -> None:
        """Raise OutsideRoots if a URL lies below none of the roots, by its name."""
        if self.places and not any(_is_below(url, root) for root in self.places if not is_local(root)):
            raise OutsideRoots

    def folders_beside(self, url: str) -> tuple[str, ...] | None:
        """Return the paths of the roots on a URL's server; None if there are no roots at all."""
        if not self.places:
            return None
        return tuple(
            urlsplit(root).path or "/"
            for root in self.places
            if not is_local(root) and _is_same_server(urlsplit(url), urlsplit(root))
        )

    def split(self, path: Path) -> tuple[Path, tuple[str, ...]]:
        """Return the resolved root that a path lies in, and the parts of the path from there.

        Raises OutsideRoots.
        """
        if not path.is_absolute() or ".." in path.parts:
            raise OutsideRoots
        real = Path(os.path.realpath(path))
        for place in self.places:
            if is_local(place) and real.is_relative_to(root := Path(os.path.realpath(place))):
                return root, real.relative_to(root).parts or (".",)
        raise OutsideRoots


#: No restriction.
EVERYWHERE = Roots()


def _is_below(url: str, root: str) -> bool:
    """Whether a URL lies below another one on the same server, by whole folders."""
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
