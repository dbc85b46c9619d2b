"""Labelled images, and the folders that hold them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from db.errors import PneumoscreenError
from db.models.card import POSITIVE
from db.training.labels import contradict
from training.data.classes import CLASSES, TYPES, as_class
from training.data.patients import Group, patient_group
from worker.files.omissions import Omissions
from worker.files.roots import EVERYWHERE, Roots
from worker.files.tree import walk_files

#: The type of pneumonia in Kermany's file names, `person<N>_<bacteria|virus>_<i>`.
_TYPE = re.compile(r"^person\d+_(bacteria|virus)_")
_TYPES = {"bacteria": "BACTERIAL", "virus": "VIRAL"}


class LabelledFolderMissing(PneumoscreenError):
    """A class has no images. Name the folder that holds NORMAL and PNEUMONIA."""

    code = "labelled-folders-missing"


class LabelledFolderUnreadable(PneumoscreenError):
    """A folder of labelled images cannot be read. Restore it, or let this user read it, and try again."""

    code = "labelled-folder-unreadable"


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image whose class is known."""

    path: Path
    #: NORMAL, PNEUMONIA or, if it is known, the type of pneumonia.
    label: str
    #: Images of one group are never on both sides of a split.
    group: Group
    #: The folders that the file must lie in when it is opened.
    roots: Roots = EVERYWHERE


def find_labelled(data: Path) -> list[LabelledImage]:
    """List the images under NORMAL/, PNEUMONIA/, BACTERIAL/ and VIRAL/, in path order.

    An image under PNEUMONIA/ whose name tells the type (`person12_virus_34`) gets that type as its label.
    Raises LabelledFolderUnreadable: otherwise a comparison would use a part of the images unnoticed.
    """
    return [
        LabelledImage(
            path=path, label=_type(path, label), group=patient_group(path.relative_to(data / label), label)
        )
        for label in (*CLASSES, *TYPES)
        for path in _files(data / label)
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(where) / name
        # Thumbnails and deleted files are no labelled images.
        for where, names in walk_files(str(folder), Omissions.read(), _ignore_missing)
        for name in names
        if not name.startswith(".")
    )


def _ignore_missing(error: OSError) -> None:
    """Ignore a class that has no folder. Raises LabelledFolderUnreadable for any other error."""
    if not isinstance(error, FileNotFoundError):
        raise LabelledFolderUnreadable(error.strerror or "") from None


def _type(path: Path, label: str) -> str:
    named = _TYPE.match(path.name)
    return _TYPES[named[1]] if named is not None and label == POSITIVE else label


def as_classes(images: Iterable[LabelledImage], classes: Sequence[str]) -> list[LabelledImage]:
    """Label images with one of `classes`, and leave out those whose type would have to be guessed.

    Raises LabelledFolderMissing if a class has no image at all.
    """
    found = [replace(image, label=counted) for image in images if (counted := as_class(image.label, classes))]
    counts = Counter(image.label for image in found)
    for label in classes:
        if counts[label] == 0:
            raise LabelledFolderMissing(label)
    return found


def contradictions(
    labels: Sequence[str], digests: Sequence[str], readings: Mapping[str, Set[str]] = MappingProxyType({})
) -> list[int]:
    """Return the indices of images whose bytes have a contradicting label elsewhere.

    `readings` are the classes that readers gave, by digest.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        found[digest] |= {label, *readings.get(digest, ())}
    return [index for index, digest in enumerate(digests) if contradict(found[digest])]
