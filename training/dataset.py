"""Labelled images: folders named after their classes, patient groups and splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from db.model_card import POSITIVE

NEGATIVE = "NORMAL"
CLASSES = (NEGATIVE, POSITIVE)

#: Kermany's naming, `person<N>_<bacteria|virus>_<i>`: the only part of a name that tells the patient.
_PERSON = re.compile(r"^person(\d+)_")


class LabelledFolderMissing(PneumoscreenError):
    """The data has no NORMAL and PNEUMONIA folders with images. Point at the folder that holds both."""

    code = "labelled-folders-missing"


class TooFewLabelled(PneumoscreenError):
    """A class has too few images to hold some out. Label more of it."""

    code = "too-few-labelled"


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image whose class is known."""

    path: Path
    label: str
    #: Images of one group (a patient) never stand on both sides of a split.
    group: str


def find_labelled(data: Path) -> list[LabelledImage]:
    """List the images under NORMAL/ and PNEUMONIA/, in path order.

    Raises LabelledFolderMissing where one of the two has no file.
    """
    found = [
        LabelledImage(path=path, label=label, group=patient_group(path))
        for label in CLASSES
        for path in _files(data / label)
    ]
    for label, count in Counter(dict.fromkeys(CLASSES, 0) | Counter(i.label for i in found)).items():
        if count == 0:
            raise LabelledFolderMissing(label)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        Path(where) / name
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )


def patient_group(path: Path) -> str:
    """Return the patient that a file name tells, or the name itself where it tells none.

    The person number alone: bacterial and viral images of one number may be one patient.
    """
    person = _PERSON.match(path.name)
    return f"person{person[1]}" if person else path.stem


def fingerprint(digests: list[str], labels: list[str]) -> str:
    """Return a SHA-256 over the set of (digest, label) pairs: equal for equal data in any order and place."""
    lines = sorted(f"{digest} {label}" for digest, label in zip(digests, labels, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def grouped_split(
    images: list[LabelledImage], digests: list[str], *, held_out: float = 0.2, seed: int = 42
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split into training and validation indices with patients and exact duplicates on one side.

    Stratified by class. Raises TooFewLabelled where a class has fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = _joined_groups(images, digests)
    labels = np.array([image.label for image in images])
    folds = round(1 / held_out)
    for label in CLASSES:
        if len({group for group, own in zip(groups, labels, strict=True) if own == label}) < folds:
            raise TooFewLabelled(label)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    train, valid = next(iter(splitter.split(np.zeros(len(images)), labels, groups)))
    return train.astype(np.int64), valid.astype(np.int64)


def _joined_groups(images: list[LabelledImage], digests: list[str]) -> NDArray[np.int64]:
    """Return a number per image that is the same for all that are joined by a patient or their bytes."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys: dict[str, int] = {}
    rows, columns = [], []
    for row, (image, digest) in enumerate(zip(images, digests, strict=True)):
        for key in (f"group {image.group}", f"digest {digest}"):
            rows.append(row)
            columns.append(len(images) + keys.setdefault(key, len(keys)))
    size = len(images) + len(keys)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[: len(images)], dtype=np.int64)
