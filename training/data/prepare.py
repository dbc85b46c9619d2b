"""Labelled data, ready to train on: read, cleaned, grouped and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError
from training.data.dataset import (
    TYPES,
    LabelledImage,
    as_classes,
    contradictions,
    fingerprint,
    grouped_split,
    patients,
    positives,
    random_split,
)
from training.data.duplicates import near_duplicates
from training.data.pictures import PictureSet, read_pictures
from training.outcome import DataSummary, HeldOut
from training.recipe import Recipe
from worker.decoding.pool import DecoderPool
from worker.settings import WorkerSettings

#: Images without which neither side of a split says anything.
_FEWEST = 20


class TooFewImages(PneumoscreenError):
    """There are fewer than 20 labelled images that can be read. Label more."""

    code = "too-few-images"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The images of a run and how they are split."""

    pictures: PictureSet
    classes: tuple[str, ...]
    #: Indices of validation images.
    held_out: NDArray[np.int64]
    #: A number per image; equal for images of one patient and for copies.
    groups: NDArray[np.int64]
    #: The type of pneumonia of each image, None for a normal one and where it is not known.
    types: list[str | None]
    #: Digests of files that carry contradicting labels; they are left out.
    contradicting: list[str]
    #: Images that look like another one.
    duplicates: int

    @property
    def targets(self) -> NDArray[np.int64]:
        """Indices into `classes`, (N,)."""
        return np.array([self.classes.index(image.label) for image in self.pictures.images])

    @property
    def training(self) -> NDArray[np.int64]:
        """Indices of training images."""
        return np.delete(np.arange(len(self.pictures)), self.held_out)

    def held_out_images(self) -> HeldOut:
        """Return what a report needs to know of the held-out images."""
        chosen = self.held_out
        attributes: dict[str, tuple[str | None, ...]] = {
            "type": tuple(self.types[index] for index in chosen),
        }
        for name in ("size", "sex", "age", "manufacturer"):
            attributes[name] = tuple(self.pictures.attributes[index].get(name) for index in chosen)
        return HeldOut(
            classes=self.classes,
            positives=positives(self.classes),
            truth=self.targets[chosen],
            groups=self.groups[chosen],
            digests=tuple(self.pictures.digests[index] for index in chosen),
            pixels=self.pictures.pixels[chosen],
            # An attribute that all images share tells nothing apart.
            subgroups={name: values for name, values in attributes.items() if len(set(values)) > 1},
        )

    def summary(self) -> DataSummary:
        """Return what a report says of the data."""
        labels = [image.label for image in self.pictures.images]
        return DataSummary(
            fingerprint=fingerprint(self.pictures.digests, labels),
            training=dict(Counter(labels[index] for index in self.training)),
            held_out=dict(Counter(labels[index] for index in self.held_out)),
            unreadable=dict(Counter(problem.code for _, problem in self.pictures.unreadable)),
            duplicates=self.duplicates,
            told_by=dict(Counter(str(image.group.told_by) for image in self.pictures.images)),
            leaked=int(np.isin(self.groups[self.held_out], self.groups[self.training]).sum()),
        )


def prepare(
    labelled: Sequence[LabelledImage],
    classes: tuple[str, ...],
    recipe: Recipe,
    readings: Mapping[str, Set[str]] = MappingProxyType({}),
) -> Prepared:
    """Read labelled images and split them.

    Files whose labels contradict one another, or `readings` (classes by digest), are left out and
    listed. Raises LabelledFolderMissing, TooFewImages, TooFewLabelled.
    """
    as_classes(labelled, classes)  # what can be known before anything is read
    with DecoderPool(WorkerSettings.read()) as decoders:
        everything = read_pictures(labelled, decoders)
    bad = set(contradictions(everything.images, everything.digests, readings))
    kept = [index for index in range(len(everything)) if index not in bad]
    labels = as_classes([everything.images[index] for index in kept], classes)
    names = {(image.path): image.label for image in labels}
    kept = [index for index in kept if everything.images[index].path in names]
    if len(kept) < _FEWEST:
        raise TooFewImages
    pictures = everything.only(kept)
    types = [image.label if image.label in TYPES else None for image in pictures.images]
    pictures.images[:] = labels
    near = near_duplicates(pictures.pixels)
    groups = patients(pictures.images, pictures.digests, near)
    wanted = [image.label for image in pictures.images]
    held_out = (
        grouped_split(wanted, groups, seed=recipe.seed)
        if recipe.grouped
        else random_split(wanted, seed=recipe.seed)
    )
    return Prepared(
        pictures=pictures,
        classes=classes,
        held_out=held_out,
        groups=groups,
        types=types,
        contradicting=sorted({everything.digests[index] for index in bad}),
        duplicates=len({index for pair in near for index in pair}),
    )
