"""What a file is taken for, by its name and its beginning."""

from __future__ import annotations

from collections.abc import Callable
from posixpath import splitext

from db.jobs.images import NewImage
from db.jobs.problems import FileUnreadable, FileVanished, ImageProblem, OutsideRoots, PathTooLong
from db.text import is_too_long
from scheduler.ingest.dicom import DICOMDIR, Identity
from worker.files.dicom_header import MAGIC, PREAMBLE
from worker.files.url import shorten

#: Files with these endings are taken for images, whatever is in them: a broken one gets a row.
RASTER_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

#: Bytes that tell a DICOM file.
START_BYTES = PREAMBLE + len(MAGIC)

#: What an old one without them begins with: an element of group 0002 or 0008, in either byte order.
_FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")


def look(
    name: str, uri: str, start: Callable[[], bytes], identity: Callable[[], Identity]
) -> NewImage | None:
    """Return a file's image, or None if it is not an image.

    `start` gives the file's first START_BYTES bytes and `identity` its DICOM identifiers; both may raise
    ImageProblem, which is the image's reason. Raises that of a file whose name does not tell what it is.
    """
    if is_hidden(name):
        return None
    suffix = suffix_of(name)
    expected = suffix in RASTER_SUFFIXES | DICOM_SUFFIXES
    try:
        if is_too_long(uri):
            raise PathTooLong
        beginning = start()
        dicom = beginning[PREAMBLE:] == MAGIC
        expected = expected or dicom
        if dicom or suffix in DICOM_SUFFIXES:
            return _dicom(uri, identity())
        if suffix in RASTER_SUFFIXES:
            return NewImage(uri=uri)
        if beginning[:2] in _FIRST_GROUPS and (found := identity()).instance_uid:
            return _dicom(uri, found)
    except ImageProblem as problem:
        return not_readable(uri, problem, expected=expected)
    return None


def not_readable(uri: str, problem: ImageProblem, *, expected: bool) -> NewImage | None:
    """Return the row of an image that cannot be looked at; None for what is damaged or empty and no image.

    Raises FileVanished and FileUnreadable of a file that was not expected to be an image: nobody can tell.
    """
    # What lies outside, or too deep, is not looked at, so nobody can tell that it is no image.
    if expected or isinstance(problem, OutsideRoots | PathTooLong):
        return NewImage(uri=shorten(uri), state=problem.state, problem=problem.code)
    if isinstance(problem, FileVanished | FileUnreadable):
        raise problem
    return None


def is_hidden(name: str) -> bool:
    """Tell a file that systems leave behind, as `.DS_Store`: it is never opened."""
    return name.startswith(".")


def is_expected(name: str) -> bool:
    """Tell whether a file's name says that it is an image."""
    return suffix_of(name) in RASTER_SUFFIXES | DICOM_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the end of a file's name from its last dot on, in lower case."""
    return splitext(name)[1].lower()


def _dicom(uri: str, identity: Identity) -> NewImage | None:
    if identity.sop_class == DICOMDIR:
        return None
    return NewImage(
        uri=uri,
        study_uid=identity.study_uid,
        series_uid=identity.series_uid,
        instance_uid=identity.instance_uid,
        patient_key=identity.patient_key,
    )
