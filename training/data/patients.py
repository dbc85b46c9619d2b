"""Patients of labelled images, and the groups of images that must stay on one side of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

#: The patient's number in Kermany's file names, `person<N>_<bacteria|virus>_<i>`.
_PERSON = re.compile(r"^person(\d+)_(bacteria|virus)_")


class ToldBy(StrEnum):
    """The source from which an image's patient is known."""

    #: Patient ID (0010,0020) in the file's own header.
    HEADER = "header"
    #: The patient of an imported label or, as a pseudonym, of the cohort that holds the image.
    LABEL = "label"
    #: A file name such as `person12_virus_34`.
    NAME = "name"
    #: The folder that holds the file.
    FOLDER = "folder"
    #: Nothing: the file counts as a patient of its own.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Group:
    """A patient, as far as it is known; equal keys are one patient."""

    key: str
    told_by: ToldBy


def patient_group(path: PurePath, place: str) -> Group:
    """Return a file's patient from its path inside a place: from its name, or else from its outermost folder.

    Only the person number of a name counts: a bacterial and a viral image of one number may be of one
    patient. Folders of one name are one patient, whatever class they are under. A file that lies directly in
    the place is a patient of its own.
    """
    if person := _PERSON.match(path.name):
        return Group(f"person{person[1]}", ToldBy.NAME)
    if len(path.parts) > 1:
        return Group(f"folder {path.parts[0]}", ToldBy.FOLDER)
    return Group(f"file {place}/{path.stem}", ToldBy.NOTHING)


def number_patients(
    groups: Sequence[Group], digests: Sequence[str], near: Iterable[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Return a number per image: equal for images that share a patient, their bytes or their appearance.

    `near` are pairs of indices that show one radiograph.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys: dict[str, int] = {}
    rows, columns = [], []
    for row, (group, digest) in enumerate(zip(groups, digests, strict=True)):
        for key in (f"group {group.key}", f"digest {digest}"):
            rows.append(row)
            columns.append(len(groups) + keys.setdefault(key, len(keys)))
    for one, other in near:
        rows.append(one)
        columns.append(other)
    size = len(groups) + len(keys)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[: len(groups)], dtype=np.int64)
