"""The names of files in the job table: paths, `file:` URIs and URLs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes, urlsplit

from db.errors import PneumoscreenError
from db.text import LONGEST_URI, is_text, is_too_long
from worker.files.openers import opener_modules

#: The scheme of local files, whose names are paths or `file:` URIs.
_LOCAL = "file"
_FILE = f"{_LOCAL}://"


class RemoteUrlInvalid(PneumoscreenError):
    """The address is not an s3, http, https or sftp URL without password, query and `..`. Correct it."""

    code = "remote-url-invalid"


def scheme_of(uri: str) -> str:
    """Return a URL's scheme; `file` for a path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else _LOCAL


def is_local(uri: str) -> bool:
    """Whether a file is named by a path or a `file:` URI."""
    return scheme_of(uri) == _LOCAL


def check_url(url: str) -> None:
    """Raise RemoteUrlInvalid for a URL that has no opener, is ambiguous or may contain a secret.

    URLs are stored in the job table, so none may hold a password.
    """
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        raise RemoteUrlInvalid from None
    fits = (
        parts.scheme in opener_modules().keys() - {_LOCAL}
        # In lower case.
        and url.startswith(f"{parts.scheme}://")
        # Parsers disagree on whether these end a host's name.
        and not set("\\% ") & set(parts.netloc)
        and bool(parts.hostname)
        and port_is_number
        and parts.password is None
        and not parts.query
        and not parts.fragment
        # fsspec chains file systems with this: zip://a::s3://b opens both.
        and "::" not in url
        and not climbs(parts.path)
    )
    if not fits:
        raise RemoteUrlInvalid


def climbs(path: str) -> bool:
    """Whether a server may find `..` in a path, even if it is percent-encoded several times."""
    while (plain := unquote(path)) != path:
        path = plain
    return ".." in path.replace("\\", "/").split("/")


def path_to_uri(path: Path | str) -> str:
    """Return an absolute path as it is, or percent-encoded as a `file:` URI if it is not valid text.

    POSIX file names are bytes; a database column is text.
    """
    name = str(path)
    return name if is_text(name) else _FILE + quote_from_bytes(os.fsencode(path))


def uri_to_path(uri: str) -> Path:
    """Return the path that a local file's name stands for."""
    if uri.startswith(_FILE):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix(_FILE))))
    return Path(uri)


def name_of(uri: str) -> str:
    """Return a file's own name, without its folders."""
    if is_local(uri):
        return uri_to_path(uri).name
    parts = urlsplit(uri)
    return unquote(PurePosixPath(parts.path).name) or parts.hostname or "root"


def shorten(uri: str) -> str:
    """Return a URI as it is or, if it is too long for the job table, a shorter one that opens nothing.

    The shorter one begins with as many folders as there is room for. It ends with the URI's digest in a name
    of more than the 255 bytes that a file system accepts.
    """
    if not is_too_long(uri):
        return uri
    beginning = uri.encode()[: LONGEST_URI - 512].decode(errors="ignore").rpartition("/")[0]
    return f"{beginning}/{hashlib.sha256(uri.encode()).hexdigest():~<300}"


def locate(uri: str, elsewhere: Mapping[str, str]) -> str:
    """Return where this host has a file.

    `elsewhere` maps the beginning of a path or URL to that of another one: a folder that is mounted somewhere
    else here, or a URL that is mounted here. The longest beginning wins.
    """
    for start in sorted(elsewhere, key=len, reverse=True):
        if is_local(uri):
            path = uri_to_path(uri)
            if path.is_relative_to(start):
                return path_to_uri(Path(elsewhere[start]) / path.relative_to(start))
        elif uri.startswith(start.rstrip("/") + "/"):
            rest, there = uri.removeprefix(start.rstrip("/") + "/"), elsewhere[start].rstrip("/")
            return path_to_uri(Path(there, rest)) if is_local(there) else f"{there}/{rest}"
    return uri


def root_of(source: str, uri: str) -> str:
    """Return the folder or URL whose loss makes a source unavailable.

    It is the source itself. For a source of one file, which is named by `uri`, it is the file's folder.
    """
    return uri.rpartition("/")[0] or "/" if source == uri else source
