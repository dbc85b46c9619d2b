"""Files behind a URL: `s3://`, `http://`, `https://` and `sftp://`, through fsspec.

Addresses stand in the job table, so they hold no password: credentials come from where each protocol's
own tools take them (the AWS variables and profiles, ssh keys and known hosts).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from io import BytesIO
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from db.errors import PneumoscreenError
from db.jobs.problems import FileTooLarge, FileUnreadable, FileVanished, ImageProblem, OutsideRoots

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from worker.files.roots import Roots

_SCHEMES = frozenset({"s3", "http", "https", "sftp"})

#: Seconds to wait before the second and the third try.
_PAUSES = (0.5, 2.0)

#: Seconds after which a server that says nothing has not answered.
_SILENCE = 60

_CHUNK = 1 << 20

#: Bytes that are asked of S3 at a time: s3fs' own choice.
_LARGEST_BLOCK = 50 << 20

_Result = TypeVar("_Result")


class RemoteUrlInvalid(PneumoscreenError):
    """The address is not an s3, http, https or sftp URL without password, query and `..`. Correct it."""

    code = "remote-url-invalid"


class RemoteUnsupported(PneumoscreenError):
    """The package that speaks this protocol is missing: install `pneumoscreen[remote]`; sftp: `paramiko`."""

    code = "remote-unsupported"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that a listing names."""

    url: str
    #: Bytes; None where the listing does not say.
    size: int | None
    #: Time of the last change in seconds since 1970; None where the listing does not say.
    modified: float | None = None


def is_remote(name: str) -> bool:
    """Tell a URL from a path; `file:` URIs are paths."""
    return "://" in name and not name.startswith("file://")


def check_url(url: str) -> None:
    """Raise RemoteUrlInvalid for what could lead elsewhere than it says, or tells a password."""
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        raise RemoteUrlInvalid from None
    fits = (
        parts.scheme in _SCHEMES
        # In lower case, and without what one parser takes for the end of a host's name and another does not.
        and url.startswith(f"{parts.scheme}://")
        and not set("\\% ") & set(parts.netloc)
        and bool(parts.hostname)
        and port_is_number
        and parts.password is None
        and not parts.query
        and not parts.fragment
        # fsspec joins file systems with this: file::s3://... would open what it should not.
        and "::" not in url
        and not _climbs(parts.path)
    )
    if not fits:
        raise RemoteUrlInvalid


def _climbs(path: str) -> bool:
    """Tell whether a server may find `..` in a path, where it may stand in percent signs, even twice."""
    while (plain := unquote(path)) != path:
        path = plain
    return ".." in path.replace("\\", "/").split("/")


def list_files(url: str, *, roots: Roots | None = None) -> Iterator[RemoteFile]:
    """Yield the files below a folder, folder by folder, in the order of their names.

    A web server's folder is a page of links; those that leave it are not followed, nor are redirects that
    leave the roots. Raises RemoteUrlInvalid, RemoteUnsupported, OutsideRoots, FileNotFoundError, OSError.
    """
    folders = [_file_system(url, roots)._strip_protocol(url).rstrip("/") + "/"]
    while folders:
        folder = folders.pop()
        below = []
        for entry in sorted(_patiently(url, partial(_entries, folder=folder), roots), key=itemgetter("name")):
            name = str(entry["name"])
            if not _is_inside(name, folder):
                continue
            if entry["type"] == "directory":
                below.append(name.rstrip("/") + "/")
            else:
                # Of a link, SFTP lists what the link itself has.
                known = entry if entry["type"] != "link" else {}
                yield RemoteFile(_address(url, name), known.get("size"), _modified(known))
        folders += reversed(below)


def is_there(url: str, *, roots: Roots | None = None) -> bool:
    """Tell whether a server answers for an address; one that cannot be asked does not.

    A server that answers with a redirect out of the roots is there, too: waiting would change nothing. The
    same is said of an address outside them, without a question to its server.
    """
    try:
        return bool(_patiently(url, lambda files: files.exists(files._strip_protocol(url)), roots))
    except OutsideRoots:
        return True
    except Exception:  # each protocol's library has errors of its own
        return False


def read_file(url: str, *, limit: int, roots: Roots | None = None) -> bytes:
    """Return a file's bytes.

    Raises FileTooLarge over `limit` bytes, OutsideRoots, FileVanished, FileUnreadable.
    """
    content = _read(url, limit + 1, roots)
    if len(content) > limit:
        raise FileTooLarge
    return content


def read_start(url: str, size: int, *, roots: Roots | None = None) -> bytes:
    """Return at most `size` bytes from the beginning of a file.

    Raises OutsideRoots, FileVanished, FileUnreadable.
    """
    return _read(url, size, roots)


def _read(url: str, size: int, roots: Roots | None) -> bytes:
    how: dict[str, Any] = {}
    if url.startswith("http"):
        # No block size: one request that streams, whether or not the web server knows ranges.
        how["block_size"] = 0
    elif url.startswith("s3:"):
        # A block is fetched ahead of what is asked for: for the beginning of a file no more than that again.
        how["block_size"] = min(size, _LARGEST_BLOCK)

    def read(files: AbstractFileSystem) -> bytes:
        with files.open(files._strip_protocol(url), "rb", **how) as file:
            if url.startswith("sftp:"):
                # Otherwise every 32 KiB wait for the ones before.
                file.prefetch(min(file.stat().st_size, size))
            return read_up_to(file, size)

    try:
        return _patiently(url, read, roots)
    except ImageProblem:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        # fsspec's question for the size of what a web server has makes this of whatever goes wrong.
        raise (OutsideRoots if isinstance(error.__cause__, OutsideRoots) else FileVanished) from None
    except Exception as error:
        # Each protocol's library has errors of its own; none of their texts may leave here.
        raise FileUnreadable(type(error).__name__) from None


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """Return the first bytes of a stream, which gives as many at a time as it pleases."""
    content = BytesIO()
    while (missing := size - content.tell()) > 0 and (part := file.read(min(missing, _CHUNK))):
        content.write(part)
    return content.getvalue()


def _entries(files: AbstractFileSystem, *, folder: str) -> list[dict[str, Any]]:
    return list(files.ls(folder, detail=True))


def _patiently(url: str, ask: Callable[[AbstractFileSystem], _Result], roots: Roots | None) -> _Result:
    """Ask up to three times: networks and servers have moments. What is not there stays so."""
    for pause in _PAUSES:
        files = _file_system(url, roots)
        try:
            return ask(files)
        except (
            FileNotFoundError,
            NotADirectoryError,
            PermissionError,
            IsADirectoryError,
            OutsideRoots,
        ):
            raise
        except Exception:  # each protocol's library has errors of its own
            _forget(files)
            time.sleep(pause)
    return ask(_file_system(url, roots))


def _forget(files: AbstractFileSystem) -> None:
    """Let the next try make a connection of its own: broken ones are kept, too."""
    type(files).clear_instance_cache()
    _shared.cache_clear()


def _file_system(url: str, roots: Roots | None) -> AbstractFileSystem:
    """Return the connection to where a URL leads: one for all threads, for SFTP one for each.

    It goes nowhere else: what a server answers, redirects and links are held against the roots, too. Raises
    RemoteUrlInvalid, RemoteUnsupported, OutsideRoots.
    """
    if roots is not None:
        roots.check_url(url)
    check_url(url)
    parts = urlsplit(url)
    try:
        if parts.scheme == "sftp":
            from worker.files.sftp import KnownHostFileSystem

            there: dict[str, Any] = {"host": parts.hostname, "port": parts.port or 22, "timeout": _SILENCE}
            folders = None if roots is None else roots.folders_beside(url)
            user = {"username": parts.username} if parts.username else {}
            return KnownHostFileSystem(folders=folders, **there, **user)
        return _shared("http" if parts.scheme == "https" else parts.scheme, os.getpid(), roots)
    except ImportError:
        raise RemoteUnsupported(parts.scheme) from None


@cache
def _shared(scheme: str, _process: int, roots: Roots | None) -> AbstractFileSystem:
    """Return this process' connections by HTTP or S3, which threads may share."""
    from worker.files.connections import connect_http, connect_s3

    return connect_s3(silence=_SILENCE) if scheme == "s3" else connect_http(roots, silence=_SILENCE)


def _modified(entry: dict[str, Any]) -> float | None:
    """Return when a listed file was last changed, by S3's name for it or by SFTP's; web pages do not say."""
    moment = entry.get("LastModified", entry.get("mtime"))
    return moment.timestamp() if isinstance(moment, datetime) else None


def _is_inside(name: str, folder: str) -> bool:
    """Tell whether a listed name lies below its folder; web pages link to anything, sorted tables too."""
    inner = name.removeprefix(folder)
    return (
        name.startswith(folder)
        and bool(inner.strip("/"))
        and "." not in inner.split("/")
        and not _climbs(inner)
        and not {"?", "#"} & set(inner if name.startswith("http") else "")
    )


def _address(url: str, name: str) -> str:
    """Return the URL of a name that a file system lists: it leaves out the scheme, and sftp the host."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return f"s3://{name}"
    if parts.scheme == "sftp":
        return f"sftp://{parts.netloc}{name}"
    return name
