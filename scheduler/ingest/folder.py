"""Folders of any depth, and single files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from db.images import NewImage
from db.problems import EmptyFile, FileUnreadable, FileVanished, ImageProblem
from db.uri import path_to_uri
from scheduler.ingest.dicom import DICOMDIR, Identity, read_identity
from scheduler.ingest.source import SourceMissing, SourceUnreadable, SourceUnsupported

#: Files with these endings are taken for images, whatever is in them: a broken one gets a row.
RASTER_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

#: A DICOM file has 128 free bytes and then these four (PS3.10 section 7.1).
_PREAMBLE, _MAGIC = 128, b"DICM"

#: What an old one without them begins with: an element of group 0002 or 0008, in either byte order.
_FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")


class FolderSource:
    """The images in a folder and all folders below it, or one image file."""

    def __init__(self, path: Path) -> None:
        """Raise SourceMissing, SourceUnreadable or SourceUnsupported where there is nothing to walk."""
        self.ignored = 0
        try:
            self.path = path.expanduser().resolve(strict=True)
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except (OSError, RuntimeError):
            raise SourceUnreadable from None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise SourceUnsupported
        if not os.access(self.path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
            raise SourceUnreadable

    @property
    def described(self) -> str:
        """The path."""
        return str(self.path)

    def walk(self) -> Iterator[NewImage]:
        """Yield the images in the order of their paths.

        Links to files are followed; links to folders are not, so that a loop has no way to close.
        """
        if self.path.is_file():
            yield from self._look(self.path)
            return
        for folder, subfolders, names in os.walk(self.path):
            subfolders.sort()
            for name in sorted(names):
                yield from self._look(Path(folder, name))

    def _look(self, path: Path) -> Iterator[NewImage]:
        """Yield the file's image, if it is one."""
        suffix = path.suffix.lower()
        uri = path_to_uri(path)
        if path.name.startswith("."):
            self.ignored += 1
            return
        try:
            start = _start(path)
            if start[_PREAMBLE:] == _MAGIC or suffix in DICOM_SUFFIXES:
                yield from self._dicom(uri, read_identity(path))
            elif suffix in RASTER_SUFFIXES:
                yield NewImage(uri=uri)
            elif start[:2] in _FIRST_GROUPS and (identity := read_identity(path)).instance_uid:
                yield from self._dicom(uri, identity)
            else:
                self.ignored += 1
        except ImageProblem as problem:
            if suffix in RASTER_SUFFIXES | DICOM_SUFFIXES:
                yield NewImage(uri=uri, state=problem.state, problem=problem.code)
            else:
                self.ignored += 1

    def _dicom(self, uri: str, identity: Identity) -> Iterator[NewImage]:
        if identity.sop_class == DICOMDIR:
            self.ignored += 1
            return
        yield NewImage(
            uri=uri,
            study_uid=identity.study_uid,
            series_uid=identity.series_uid,
            instance_uid=identity.instance_uid,
            patient_key=identity.patient_key,
        )


def _start(path: Path) -> bytes:
    """Return the bytes that tell a DICOM file.

    Raises EmptyFile, FileVanished, FileUnreadable.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe or a device would hold us until somebody writes to it.
            raise FileUnreadable
        with path.open("rb") as file:
            start = file.read(_PREAMBLE + len(_MAGIC))
    except FileNotFoundError:
        raise FileVanished from None
    except OSError:
        raise FileUnreadable from None
    if not start:
        raise EmptyFile
    return start
