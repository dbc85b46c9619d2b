"""The recognition of images by their names and their first bytes."""

from __future__ import annotations

from collections.abc import Callable
from posixpath import splitext

from db.jobs.images import NewImage
from db.jobs.problems import FileUnreadable, FileVanished, ImageProblem, OutsideRoots, PathTooLong
from db.text import is_too_long
from scheduler.ingest.dicom import DICOMDIR, Identity
from worker.files.dicom_header import MAGIC, PREAMBLE
from worker.files.formats import is_raster
from worker.files.url import shorten

#: Suffixes that make a file an image, whatever its bytes are: a damaged image gets a row.
RASTER_SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjpg", ".png", ".tif", ".tiff", ".btf",
        ".bmp", ".dib",
        # JPEG 2000, JPEG-LS and lossless JPEG.
        ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jph", ".jhc", ".jls", ".ljpg", ".ljpeg",
    }
)  # fmt: skip
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

#: Files that systems leave in folders and that have no leading dot.
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})

#: Bytes that show whether a file is DICOM or a raster.
START_BYTES = PREAMBLE + len(MAGIC)

#: First bytes of an old DICOM file without a preamble: group 0002 or 0008, in either byte order.
_FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")


def recognise(
    name: str, uri: str, start: Callable[[], bytes], identity: Callable[[], Identity]
) -> NewImage | None:
    """Return a file's image, or None if it is not an image.

    `start` returns the file's first START_BYTES bytes, `identity` its DICOM identifiers. Both may raise
    ImageProblem, which becomes the reason why the image is not screened. It is raised from here if the
    file's name does not tell that it is an image.
    """
    if is_hidden(name):
        return None
    suffix = suffix_of(name)
    expected = is_expected(name)
    try:
        if is_too_long(uri):
            raise PathTooLong
        beginning = start()
        dicom = beginning[PREAMBLE:] == MAGIC
        expected = expected or dicom
        if not dicom and (suffix in RASTER_SUFFIXES or is_raster(beginning)):
            return NewImage(uri=uri)
        if dicom or suffix in DICOM_SUFFIXES:
            return _dicom(uri, identity())
        if beginning[:2] in _FIRST_GROUPS and (found := identity()).instance_uid:
            return _dicom(uri, found)
    except ImageProblem as problem:
        return not_readable(uri, problem, expected=expected)
    return None


def not_readable(uri: str, problem: ImageProblem, *, expected: bool) -> NewImage | None:
    """Return the row of an image that cannot be read; None for a damaged or empty file that is no image.

    Raises FileVanished and FileUnreadable for a file that was not expected to be an image, but may be one.
    """
    # A file outside the roots, or too deep, is never opened: it may be an image.
    if expected or isinstance(problem, OutsideRoots | PathTooLong):
        return NewImage(uri=shorten(uri), state=problem.state, problem=problem.code)
    if isinstance(problem, FileVanished | FileUnreadable):
        raise problem
    return None


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems leave behind, such as `.DS_Store` or `._1.jpg`: never opened."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def is_expected(name: str) -> bool:
    """Whether a file's name tells that it is an image."""
    return suffix_of(name) in RASTER_SUFFIXES | DICOM_SUFFIXES


def is_probably_dicom(name: str) -> bool:
    """Whether a file has a name that DICOM exports use: `IM0001`, `1.2.840.1`, `a.dcm`."""
    suffix = suffix_of(name)
    return suffix in DICOM_SUFFIXES or not suffix or suffix[1:].isdigit()


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
        accession=identity.accession,
    )
