"""Labelled images as the pictures that the network sees, read once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from db.problems import ImageProblem
from training.attributes import GROUP, read_attributes
from training.dataset import LabelledImage
from worker.imaging import SIDE, Picture, read_picture


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Images that could be read, in one array, and those that could not."""

    images: list[LabelledImage]
    #: uint8, (N, 224, 224, 3).
    pixels: NDArray[np.uint8]
    #: SHA-256 of each file.
    digests: list[str]
    #: What each file's header says, as `training.attributes` reads it.
    attributes: list[dict[str, str]]
    unreadable: list[tuple[LabelledImage, ImageProblem]]

    def __len__(self) -> int:
        return len(self.images)

    def only(self, indices: Sequence[int]) -> PictureSet:
        """Return the set of these images; what could not be read stays known."""
        return replace(
            self,
            images=[self.images[index] for index in indices],
            pixels=self.pixels[list(indices)],
            digests=[self.digests[index] for index in indices],
            attributes=[self.attributes[index] for index in indices],
        )


def read_pictures(images: Sequence[LabelledImage], *, threads: int = 4) -> PictureSet:
    """Read images through the one preprocessing, in order; 150 kB of memory each.

    A DICOM image's group is its Patient ID.
    """

    def read(image: LabelledImage) -> tuple[Picture | ImageProblem, dict[str, str]]:
        try:
            return read_picture(image.path), read_attributes(image.path)
        except ImageProblem as problem:
            return problem, {}

    pixels = np.empty((len(images), SIDE, SIDE, 3), dtype=np.uint8)
    found = PictureSet([], pixels, [], [], [])
    with ThreadPoolExecutor(threads) as pool:
        for image, (result, attributes) in zip(images, pool.map(read, images), strict=True):
            if isinstance(result, ImageProblem):
                found.unreadable.append((image, result))
                continue
            pixels[len(found.images)] = result.pixels
            group = attributes.pop(GROUP, None)
            found.images.append(replace(image, group=f"patient {group}") if group else image)
            found.digests.append(result.digest)
            found.attributes.append(attributes)
    return replace(found, pixels=pixels[: len(found.images)])
