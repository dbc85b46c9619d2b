"""Access to files by URL, whatever the scheme: the opener is looked up in the table."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from db.errors import PneumoscreenError
from db.jobs.problems import FileUnreadable, OutsideRoots
from worker.files.omissions import Omissions
from worker.files.opener import Content, Entry, Opener
from worker.files.openers import opener_modules
from worker.files.roots import EVERYWHERE, Roots
from worker.files.url import RemoteUrlInvalid, check_url, is_local, scheme_of


class RemoteUnsupported(PneumoscreenError):
    """This protocol needs a package. In the clone: `pip install '.[remote]'`; for sftp, `paramiko`."""

    code = "remote-unsupported"


def find_opener(url: str) -> Opener:
    """Return the opener of a URL. Raises RemoteUrlInvalid, RemoteUnsupported."""
    if not is_local(url):
        check_url(url)
    scheme = scheme_of(url)
    try:
        opener: Opener = import_module(opener_modules()[scheme]).OPENER
    except ImportError:
        raise RemoteUnsupported(scheme) from None
    return opener


def check(url: str, roots: Roots) -> None:
    """Raise OutsideRoots for a path (its links resolved) or a URL (by its name) outside the roots."""
    if is_local(url):
        find_opener(url).check(url, roots)
    else:
        # Before the opener is looked up: a URL that is invalid lies outside, too.
        roots.check_url(url)


def read_file(url: str, *, limit: int, roots: Roots = EVERYWHERE) -> Content:
    """Return a file's bytes. Several threads may read at once.

    Raises FileTooLarge for more than `limit` bytes, OutsideRoots, FileVanished, FileUnreadable, PathTooLong.
    """
    return _image_opener(url, roots).read_file(url, limit, roots)


def read_start(url: str, size: int, *, roots: Roots = EVERYWHERE) -> bytes:
    """Return at most the first `size` bytes of a file.

    Raises OutsideRoots, FileVanished, FileUnreadable, PathTooLong.
    """
    return _image_opener(url, roots).read_start(url, size, roots)


def list_files(url: str, omissions: Omissions, *, roots: Roots = EVERYWHERE) -> Iterator[Entry]:
    """Yield the files below a folder, in an order that a second listing repeats.

    `omissions` says which folders below are not walked, and counts what is left out. Raises RemoteUrlInvalid,
    RemoteUnsupported, OutsideRoots, OSError and errors of the scheme's library.
    """
    check(url, roots)
    yield from find_opener(url).list_files(url, roots, omissions)


def is_available(url: str, *, roots: Roots = EVERYWHERE) -> bool:
    """Whether a folder or file is there. Outside the roots, nothing is checked and the answer is True."""
    try:
        opener = _image_opener(url, roots)
    except FileUnreadable:
        return False
    except OutsideRoots:
        return True
    return opener.is_available(url, roots)


def _image_opener(url: str, roots: Roots) -> Opener:
    """Return the opener of an image's URL. Raises OutsideRoots, FileUnreadable."""
    if not is_local(url):
        roots.check_url(url)
    try:
        return find_opener(url)
    except (RemoteUrlInvalid, RemoteUnsupported) as error:
        raise FileUnreadable(type(error).__name__) from None
