"""Labelled images as the pictures that the network sees, read once and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import ImageProblem
from training.data.attributes import GROUP, read_attributes
from training.data.labelled import LabelledImage
from training.data.patients import Group, ToldBy
from worker.decoding.pool import DecoderPool
from worker.decoding.reader import read_bytes
from worker.imaging.limits import Limits
from worker.imaging.picture import SIDE

#: Images that are decoded ahead.
_AHEAD = 256


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Images that could be read, in one array, and those that could not."""

    images: list[LabelledImage]
    #: uint8, (N, 224, 224, 3).
    pixels: NDArray[np.uint8]
    #: SHA-256 of each file.
    digests: list[str]
    #: The attributes of each file's header, as `training.data.attributes` reads them.
    attributes: list[dict[str, str]]
    unreadable: list[tuple[LabelledImage, ImageProblem]]

    def __len__(self) -> int:
        return len(self.images)

    def only(self, indices: Sequence[int]) -> PictureSet:
        """Return the set of these images. The list of unreadable images stays."""
        return replace(
            self,
            images=[self.images[index] for index in indices],
            pixels=self.pixels[list(indices)],
            digests=[self.digests[index] for index in indices],
            attributes=[self.attributes[index] for index in indices],
        )


def read_pictures(images: Sequence[LabelledImage], decoders: DecoderPool) -> PictureSet:
    """Read images in order with the preprocessing of screening. Each takes 150 kB of memory.

    A DICOM image's group is its Patient ID.
    """
    pixels = np.empty((len(images), SIDE, SIDE, 3), dtype=np.uint8)
    found = PictureSet([], pixels, [], [], [])
    for start in range(0, len(images), _AHEAD):
        chunk = images[start : start + _AHEAD]
        files = [_File(image, decoders.limits) for image in chunk]
        futures = [decoders.submit(file.read) for file in files]
        for image, file, future in zip(chunk, files, futures, strict=True):
            try:
                picture = future.result()
            except ImageProblem as problem:
                found.unreadable.append((image, problem))
                continue
            pixels[len(found.images)] = picture.pixels
            group = file.attributes.pop(GROUP, None)
            found.images.append(
                replace(image, group=Group(f"patient {group}", ToldBy.HEADER)) if group else image
            )
            found.digests.append(picture.digest)
            found.attributes.append(file.attributes)
    return replace(found, pixels=pixels[: len(found.images)])


@dataclass(slots=True)
class _File:
    """A file to decode. The attributes of its header are kept, but not its bytes."""

    image: LabelledImage
    limits: Limits
    attributes: dict[str, str] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the file's bytes. Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable."""
        content, _ = read_bytes(self.image.path, self.limits, self.image.roots)
        self.attributes = read_attributes(content)
        return content
