"""How the job table names a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from db.remote import is_remote, is_there

_FILE = "file://"


def path_to_uri(path: Path) -> str:
    """Return an absolute path as it is, or percent-encoded as a `file:` URI where it is not valid text.

    POSIX file names are bytes; a database column is text.
    """
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return _FILE + quote_from_bytes(os.fsencode(path))
    return name


def locate(uri: str, elsewhere: Mapping[str, str]) -> Path | str:
    """Return where this host has a file, a path or a URL.

    The longest beginning that `elsewhere` names is exchanged: a folder that is mounted somewhere else, or
    a URL that is mounted here.
    """
    if is_remote(uri):
        for start in sorted(elsewhere, key=len, reverse=True):
            if uri.startswith(start.rstrip("/") + "/"):
                rest = uri.removeprefix(start.rstrip("/") + "/")
                there = elsewhere[start].rstrip("/")
                return f"{there}/{rest}" if is_remote(there) else Path(there, rest)
        return uri
    path = uri_to_path(uri)
    for folder in sorted(elsewhere, key=len, reverse=True):
        if path.is_relative_to(folder):
            return Path(elsewhere[folder]) / path.relative_to(folder)
    return path


def root_of(described: str, uri: str) -> str:
    """Return what is gone if a source is: the source, or of one file, which has this URI, its folder."""
    source = described if is_remote(described) else path_to_uri(Path(described))
    return uri.rpartition("/")[0] or "/" if source == uri else source


def is_away(root: str, elsewhere: Mapping[str, str]) -> bool:
    """Tell whether a folder or URL that files were found in is not there at all, or holds nothing any more.

    A mount that is gone leaves an empty folder behind, or none, or one that cannot be read.
    """
    where = locate(root, elsewhere)
    if isinstance(where, str):
        return not is_there(where)
    try:
        with os.scandir(where) as entries:
            return next(entries, None) is None
    except NotADirectoryError:
        return False
    except (OSError, ValueError):
        return True


def uri_to_path(uri: str) -> Path:
    """Return the path that `path_to_uri` named."""
    if uri.startswith(_FILE):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix(_FILE))))
    return Path(uri)
