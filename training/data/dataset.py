"""Labelled images: classes, patient groups and splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePath
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from db.models.card import POSITIVE
from worker.files.roots import EVERYWHERE, Roots
from worker.files.tree import walk_files

NEGATIVE = "NORMAL"
CLASSES = (NEGATIVE, POSITIVE)

#: Types of pneumonia, and how Kermany's file names call them.
TYPES = {"BACTERIAL": "bacteria", "VIRAL": "virus"}

#: Kermany's naming, `person<N>_<bacteria|virus>_<i>`.
_PERSON = re.compile(r"^person(\d+)_(bacteria|virus)_")


class LabelledFolderMissing(PneumoscreenError):
    """A class has no images. Point at the folder that holds NORMAL and PNEUMONIA."""

    code = "labelled-folders-missing"


class LabelledFolderUnreadable(PneumoscreenError):
    """A folder of labelled images cannot be read. Bring it back, or let this user read it; do it again."""

    code = "labelled-folder-unreadable"


class TooFewLabelled(PneumoscreenError):
    """A class has too few images, or too few patients or folders, to hold a fifth out. Label more of it."""

    code = "too-few-labelled"


class ClassesUnknown(PneumoscreenError):
    """There are no such classes. Choose normal,pneumonia or normal,bacterial,viral."""

    code = "classes-unknown"


class ToldBy(StrEnum):
    """What an image's patient is known by."""

    #: Patient ID (0010,0020) of the file's own header.
    HEADER = "header"
    #: The patient of an imported label or, as a pseudonym, of the cohort that the image is in.
    LABEL = "label"
    #: A file name as `person12_virus_34`.
    NAME = "name"
    #: The folder that the file is in.
    FOLDER = "folder"
    #: Nothing: the file counts as a patient of its own.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Group:
    """A patient, as far as anything tells; equal keys are one patient."""

    key: str
    told_by: ToldBy


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image whose class is known."""

    path: Path
    #: NORMAL, PNEUMONIA or, where it is known, the type of pneumonia.
    label: str
    #: Images of one group never stand on both sides of a split.
    group: Group
    #: What the file must really lie in when it is opened.
    roots: Roots = EVERYWHERE


def parse_classes(names: str) -> tuple[str, ...]:
    """Return class names from a comma-separated list. Raises ClassesUnknown."""
    found = tuple(name.strip().upper() for name in names.split(","))
    if found not in (CLASSES, (NEGATIVE, *TYPES)):
        raise ClassesUnknown(names)
    return found


def positives(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return those classes that are pneumonia."""
    return tuple(name for name in classes if name != NEGATIVE)


def find_labelled(data: Path) -> list[LabelledImage]:
    """List the images under NORMAL/, PNEUMONIA/, BACTERIAL/ and VIRAL/, in path order.

    An image under PNEUMONIA/ whose name tells the type (`person12_virus_34`) is labelled with it. Raises
    LabelledFolderUnreadable: a comparison on a part of the images would pass for one on all of them.
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
        for where, names in walk_files(str(folder), _not_there)
        for name in names
        if not name.startswith(".")
    )


def _not_there(error: OSError) -> None:
    """Pass a class over that has no folder. Raises LabelledFolderUnreadable."""
    if not isinstance(error, FileNotFoundError):
        raise LabelledFolderUnreadable(error.strerror or "") from None


def _type(path: Path, label: str) -> str:
    person = _PERSON.match(path.name)
    if person is None or label != POSITIVE:
        return label
    return next(name for name, said in TYPES.items() if said == person[2])


def patient_group(path: PurePath, place: str) -> Group:
    """Return the patient of a file by its path in a place: what its name tells, else the outermost folder.

    The person number alone: bacterial and viral images of one number may be one patient. Folders of one name
    are one patient, whatever class they are under. A file that lies in the place itself is one of its own.
    """
    if person := _PERSON.match(path.name):
        return Group(f"person{person[1]}", ToldBy.NAME)
    if len(path.parts) > 1:
        return Group(f"folder {path.parts[0]}", ToldBy.FOLDER)
    return Group(f"file {place}/{path.stem}", ToldBy.NOTHING)


def as_classes(images: Iterable[LabelledImage], classes: tuple[str, ...]) -> list[LabelledImage]:
    """Label images with one of `classes`; those whose type would have to be guessed are left out.

    Raises LabelledFolderMissing where a class has no image at all.
    """
    found = []
    for image in images:
        label = POSITIVE if POSITIVE in classes and image.label in TYPES else image.label
        if label in classes:
            found.append(replace(image, label=label))
    for label, count in Counter(dict.fromkeys(classes, 0) | Counter(i.label for i in found)).items():
        if count == 0:
            raise LabelledFolderMissing(label)
    return found


def contradictions(
    images: list[LabelledImage], digests: list[str], readings: Mapping[str, Set[str]] = MappingProxyType({})
) -> list[int]:
    """Return the indices of images whose very same bytes carry another class elsewhere.

    `readings` are classes by digest that readers gave. PNEUMONIA does not contradict a type of it.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for digest in digests:
        labels[digest] |= readings.get(digest, set())
    for image, digest in zip(images, digests, strict=True):
        labels[digest].add(image.label)
    return [index for index, digest in enumerate(digests) if _contradict(labels[digest])]


def _contradict(labels: set[str]) -> bool:
    return (NEGATIVE in labels and len(labels) > 1) or len(labels & TYPES.keys()) > 1


def fingerprint(digests: list[str], labels: list[str]) -> str:
    """Return a SHA-256 over the set of (digest, label) pairs: equal for equal data in any order and place."""
    lines = sorted(f"{digest} {label}" for digest, label in zip(digests, labels, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def patients(
    images: list[LabelledImage], digests: list[str], near: Iterable[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Return a number per image, the same for all that are joined by a patient, their bytes or their looks.

    `near` are pairs of indices that show one radiograph.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys: dict[str, int] = {}
    rows, columns = [], []
    for row, (image, digest) in enumerate(zip(images, digests, strict=True)):
        for key in (f"group {image.group.key}", f"digest {digest}"):
            rows.append(row)
            columns.append(len(images) + keys.setdefault(key, len(keys)))
    for one, other in near:
        rows.append(one)
        columns.append(other)
    size = len(images) + len(keys)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[: len(images)], dtype=np.int64)


def grouped_split(
    labels: list[str], groups: NDArray[np.int64], *, held_out: float = 0.2, seed: int = 42
) -> NDArray[np.int64]:
    """Return the indices of validation images: groups stay whole, classes keep their shares.

    Raises TooFewLabelled where a class has fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = round(1 / held_out)
    names = np.array(labels)
    for label in sorted(set(labels)):
        if len(np.unique(groups[names == label])) < folds:
            raise TooFewLabelled(label)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    _, valid = next(iter(splitter.split(np.zeros(len(labels)), names, groups)))
    return valid.astype(np.int64)


def random_split(labels: list[str], *, held_out: float = 0.2, seed: int = 42) -> NDArray[np.int64]:
    """Return the indices of validation images, drawn as the thesis drew them: fastai's `RandomSplitter`.

    Raises TooFewLabelled where one side would be without a class.
    """
    from fastai.data.transforms import RandomSplitter

    train, valid = (list(side) for side in RandomSplitter(held_out, seed=seed)(labels))
    for label in sorted(set(labels)):
        if not all(any(labels[index] == label for index in side) for side in (train, valid)):
            raise TooFewLabelled(label)
    return np.array(valid, dtype=np.int64)
