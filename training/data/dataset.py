"""The dataset of a training run: labelled images that are read, cleaned, grouped and split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from training.data.classes import TYPES, as_class, positive_columns, positives
from training.data.duplicates import near_duplicates
from training.data.labelled import LabelledImage, as_classes, contradictions
from training.data.patients import number_patients
from training.data.pictures import PictureSet, read_pictures
from training.data.splits import grouped_split, random_split
from training.outcome import DataSummary, HeldOut
from training.recipe import Recipe
from worker.decoding.pool import DecoderPool
from worker.settings import WorkerSettings

#: With fewer images, neither side of a split is large enough to measure anything.
_FEWEST = 20

#: Attributes of images that a report shows subgroups of, beside the type of pneumonia.
_ATTRIBUTES = ("size", "sex", "age", "manufacturer")


class TooFewImages(PneumoscreenError):
    """There are fewer than 20 labelled images that can be read. Label more."""

    code = "too-few-images"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of a run, and which of them are held out."""

    pictures: PictureSet
    classes: tuple[str, ...]
    #: The class of each image, one of `classes`.
    labels: list[str]
    #: Indices of held-out images.
    held_out: NDArray[np.int64]
    #: A number per image, equal for images of one patient and for copies.
    groups: NDArray[np.int64]
    #: Digests of files that were left out because their labels contradict one another.
    contradicting: list[str]
    #: Images that look like another one.
    duplicates: int

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Indices into `classes`: int64, (N,)."""
        return np.array([self.classes.index(label) for label in self.labels])

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which images show pneumonia: bool, (N,)."""
        return np.isin(self.targets, positive_columns(self.classes))

    @property
    def training(self) -> NDArray[np.int64]:
        """Indices of training images."""
        return np.delete(np.arange(len(self)), self.held_out)

    def held_out_images(self, *, named: bool = False, names_below: Path | None = None) -> HeldOut:
        """Return the data of the held-out images that a report needs.

        With `named` they have their file names: the paths below that folder, if they are inside.
        """
        chosen, images = self.held_out, self.pictures.images
        attributes: dict[str, tuple[str | None, ...]] = {
            "type": tuple(images[index].label if images[index].label in TYPES else None for index in chosen)
        }
        for name in _ATTRIBUTES:
            attributes[name] = tuple(self.pictures.attributes[index].get(name) for index in chosen)
        return HeldOut(
            classes=self.classes,
            positives=positives(self.classes),
            truth=self.targets[chosen],
            groups=self.groups[chosen],
            digests=tuple(self.pictures.digests[index] for index in chosen),
            pixels=self.pictures.pixels[chosen],
            # An attribute with one value for all images gives no subgroups.
            subgroups={name: values for name, values in attributes.items() if len(set(values)) > 1},
            names=tuple(_name(images[index].path, names_below) for index in chosen) if named else (),
        )

    def summary(self) -> DataSummary:
        """Return the summary of the data for a report."""
        return DataSummary(
            fingerprint=fingerprint(self.pictures.digests, self.labels),
            training=dict(Counter(self.labels[index] for index in self.training)),
            held_out=dict(Counter(self.labels[index] for index in self.held_out)),
            unreadable=dict(Counter(problem.code for _, problem in self.pictures.unreadable)),
            duplicates=self.duplicates,
            told_by=dict(Counter(str(image.group.told_by) for image in self.pictures.images)),
            leaked=int(np.isin(self.groups[self.held_out], self.groups[self.training]).sum()),
        )


def _name(path: Path, folder: Path | None) -> str:
    """Return the path of a file below a folder, or its name alone if it is elsewhere."""
    inside = folder is not None and path.is_relative_to(folder.absolute())
    name = path.relative_to(folder.absolute()).as_posix() if folder and inside else path.name
    # A name may hold bytes that are no text.
    return name.encode("utf-8", "replace").decode()


def fingerprint(digests: Sequence[str], labels: Sequence[str]) -> str:
    """Return a SHA-256 over the set of (digest, label) pairs: equal for equal data in any order and place."""
    lines = sorted(f"{digest} {label}" for digest, label in zip(digests, labels, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_dataset(
    labelled: Sequence[LabelledImage],
    classes: tuple[str, ...],
    recipe: Recipe,
    readings: Mapping[str, Set[str]] = MappingProxyType({}),
) -> Dataset:
    """Read labelled images and split them. See `read_held_out`.

    Raises LabelledFolderMissing, TooFewImages, TooFewLabelled.
    """
    dataset = read_held_out(labelled, classes, readings)
    if len(dataset) < _FEWEST:
        raise TooFewImages
    held_out = (
        grouped_split(dataset.labels, dataset.groups, seed=recipe.seed)
        if recipe.grouped
        else random_split(dataset.labels, seed=recipe.seed)
    )
    return replace(dataset, held_out=held_out)


def read_held_out(
    labelled: Sequence[LabelledImage],
    classes: tuple[str, ...],
    readings: Mapping[str, Set[str]] = MappingProxyType({}),
) -> Dataset:
    """Read labelled images, all of which are held out: nothing is learned from them.

    Files whose labels contradict one another, or `readings` (classes by digest), are left out and listed.
    Raises LabelledFolderMissing.
    """
    as_classes(labelled, classes)  # raises before any file is read
    with DecoderPool(WorkerSettings.read()) as decoders:
        everything = read_pictures(labelled, decoders)
    found = [image.label for image in everything.images]
    bad = set(contradictions(found, everything.digests, readings))
    pictures = everything.only(
        [index for index, label in enumerate(found) if index not in bad and as_class(label, classes)]
    )
    labels = [image.label for image in as_classes(pictures.images, classes)]
    near = near_duplicates(pictures.pixels)
    groups = number_patients([image.group for image in pictures.images], pictures.digests, near)
    return Dataset(
        pictures=pictures,
        classes=classes,
        labels=labels,
        held_out=np.arange(len(pictures), dtype=np.int64),
        groups=groups,
        contradicting=sorted({everything.digests[index] for index in bad}),
        duplicates=len({index for pair in near for index in pair}),
    )
