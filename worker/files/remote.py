"""What the openers of remote files have in common: an fsspec file system, repeated requests, known errors."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from db.jobs.problems import FileTooLarge, FileUnreadable, FileVanished, ImageProblem, OutsideRoots
from worker.files.omissions import Omissions
from worker.files.opener import Content, Entry, read_up_to
from worker.files.roots import Roots
from worker.files.url import check_url, climbs

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: Options of every file system: no listing may come from a cache that the last night's run filled.
FRESH: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}

#: HTTP status codes of a redirect.
REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Seconds without a byte after which a request has failed.
TIMEOUT_SECONDS = 60

#: Seconds before the second and the third attempt.
_PAUSES = (0.5, 2.0)

#: Errors that another attempt would only repeat.
_LASTING = (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError, OutsideRoots)

_Result = TypeVar("_Result")


class RemoteOpener(ABC):
    """An opener over one of fsspec's file systems."""

    #: Threads that may read at the same time: a distant server answers slowly.
    threads = 16

    @abstractmethod
    def connect(self, url: str, roots: Roots) -> AbstractFileSystem:
        """Return a connection that asks for nothing outside the roots. Raises the library's errors."""

    def disconnect(self) -> None:  # noqa: B027  (not every protocol keeps connections itself)
        """Forget the connections that are kept."""

    def address(self, url: str, name: str) -> str:
        """Return the URL of a name that the file system lists."""
        return name

    def options(self, size: int) -> dict[str, Any]:
        """Return the options to open a file of which `size` bytes are wanted."""
        return {}

    def fetch(self, files: AbstractFileSystem, path: str, size: int) -> bytes:
        """Return at most the first `size` bytes of a file. Raises the library's errors."""
        with files.open(path, "rb", **self.options(size)) as file:
            return read_up_to(file, size)

    def is_name(self, inner: str) -> bool:
        """Whether a listed name, relative to its folder, is the name of something in that folder."""
        return bool(inner.strip("/")) and "." not in inner.split("/") and not climbs(inner)

    def check(self, url: str, roots: Roots) -> None:
        """Raise OutsideRoots if a URL lies outside the roots."""
        roots.check_url(url)

    def read_file(self, url: str, limit: int, roots: Roots) -> Content:
        """Return a file's bytes. Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable."""
        data = self.read_start(url, limit + 1, roots)
        if len(data) > limit:
            raise FileTooLarge
        return Content(data)

    def read_start(self, url: str, size: int, roots: Roots) -> bytes:
        """Return at most the first `size` bytes. Raises OutsideRoots, FileVanished, FileUnreadable."""
        try:
            return self._retry(url, roots, lambda files: self.fetch(files, files._strip_protocol(url), size))
        except ImageProblem:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            # When fsspec asks a web server for a file's size, any error at all becomes FileNotFoundError.
            raise (OutsideRoots if isinstance(error.__cause__, OutsideRoots) else FileVanished) from None
        except Exception as error:
            # Each protocol's library has its own errors. Their texts may hold a URL.
            raise FileUnreadable(type(error).__name__) from None

    def parts(self, inner: str) -> list[str]:
        """Return the parts of a listed name, as the system has them that stores the files."""
        return inner.strip("/").split("/")

    def list_files(self, url: str, roots: Roots, omissions: Omissions) -> Iterator[Entry]:
        """Yield the files below a folder, folder by folder, in the order of their names.

        Links out of the folder are not followed. Raises OutsideRoots and the library's errors.
        """
        top = self._retry(url, roots, lambda files: str(files._strip_protocol(url)))
        folders = [top.rstrip("/") + "/"]
        while folders:
            folder = folders.pop()
            below = []
            for listed in self._list(url, roots, folder):
                name, is_folder = str(listed["name"]), listed["type"] == "directory"
                inner = name.removeprefix(folder)
                if not name.startswith(folder) or not self.is_name(inner):
                    continue
                # A web page may also list what lies deeper.
                folders_of_it = self.parts(inner)[: None if is_folder else -1]
                if any(omissions.skips(part) for part in folders_of_it):
                    continue
                if is_folder:
                    below.append(name.rstrip("/") + "/")
                elif listed["type"] == "link" and self._is_folder(url, roots, name):
                    omissions.links += 1
                else:
                    # Of a link, SFTP lists the size and time of the link itself.
                    known = listed if listed["type"] != "link" else {}
                    yield Entry(self.address(url, name), known.get("size"), _modified(known))
            folders += reversed(below)

    def is_available(self, url: str, roots: Roots) -> bool:
        """Whether a server answers for a URL; True if it is outside the roots or redirects out of them."""
        try:
            return bool(self._retry(url, roots, lambda files: files.exists(files._strip_protocol(url))))
        except OutsideRoots:
            return True
        except Exception:  # each protocol's library has its own errors
            return False

    def _is_folder(self, url: str, roots: Roots, link: str) -> bool:
        """Whether a link leads to a folder. A link that leads nowhere, or out of the roots, is a file."""
        try:
            return bool(self._retry(url, roots, lambda files: files.isdir(link)))
        except (OutsideRoots, OSError):
            return False

    def _list(self, url: str, roots: Roots, folder: str) -> list[dict[str, Any]]:
        found = self._retry(url, roots, lambda files: list(files.ls(folder, detail=True)))
        return sorted(found, key=itemgetter("name"))

    def _retry(self, url: str, roots: Roots, request: Callable[[AbstractFileSystem], _Result]) -> _Result:
        """Try up to three times: many failures of networks and servers are short."""
        for pause in _PAUSES:
            files = self._connected(url, roots)
            try:
                return request(files)
            except _LASTING:
                raise
            except Exception:  # each protocol's library has its own errors
                # The next attempt makes a new connection: fsspec keeps broken ones, too.
                type(files).clear_instance_cache()
                self.disconnect()
                time.sleep(pause)
        return request(self._connected(url, roots))

    def _connected(self, url: str, roots: Roots) -> AbstractFileSystem:
        roots.check_url(url)
        check_url(url)
        return self.connect(url, roots)


def _modified(listed: dict[str, Any]) -> float | None:
    """Return when a listed file was last changed, from the field of S3 or SFTP; None for web pages."""
    moment = listed.get("LastModified", listed.get("mtime"))
    return moment.timestamp() if isinstance(moment, datetime) else None
