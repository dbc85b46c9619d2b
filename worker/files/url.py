"""How the job table names a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from db.jobs.problems import OutsideRoots
from db.text import LONGEST_URI, is_text, is_too_long
from worker.files.remote import is_remote, is_there
from worker.files.roots import EVERYWHERE, Roots

_FILE = "file://"


def path_to_uri(path: Path) -> str:
    """Return an absolute path as it is, or percent-encoded as a `file:` URI where it is not valid text.

    POSIX file names are bytes; a database column is text.
    """
    name = str(path)
    return name if is_text(name) else _FILE + quote_from_bytes(os.fsencode(path))


def shortened(uri: str) -> str:
    """Return a name as it is or, if it is too long, one that stands for it: nothing can be opened by that.

    That begins with as many of its folders as there is room for, and ends with its digest in a name of more
    than the 255 bytes that a file system takes.
    """
    if not is_too_long(uri):
        return uri
    beginning = uri.encode()[: LONGEST_URI - 512].decode(errors="ignore").rpartition("/")[0]
    return f"{beginning}/{hashlib.sha256(uri.encode()).hexdigest():~<300}"


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


def root_of(source: str, uri: str) -> str:
    """Return what is gone if a source is: the source, or of one file, which has this URI, its folder."""
    return uri.rpartition("/")[0] or "/" if source == uri else source


def is_away(root: str, elsewhere: Mapping[str, str], roots: Roots = EVERYWHERE) -> bool:
    """Tell whether a folder or URL that files were found in is not there at all, or holds nothing any more.

    A mount that is gone leaves an empty folder behind, or none, or one that cannot be read. What lies outside
    `roots` is not asked for, and not waited for.
    """
    where = locate(root, elsewhere)
    if isinstance(where, str):
        return not is_there(where, roots=roots)
    try:
        roots.check(where)
        with os.scandir(where) as entries:
            return next(entries, None) is None
    except (NotADirectoryError, OutsideRoots):
        return False
    except (OSError, ValueError):
        return True


def uri_to_path(uri: str) -> Path:
    """Return the path that `path_to_uri` named."""
    if uri.startswith(_FILE):
        return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix(_FILE))))
    return Path(uri)
