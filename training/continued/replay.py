"""Replay: pictures of the site that a model learned from, mixed among those of the new one.

A network that goes on learning on a new site alone forgets the former one (Robins 1995).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from training.data.dataset import Dataset, read_dataset
from training.data.patients import ToldBy
from training.data.sources import labelled_folder
from training.plan import Plan
from worker.torchvision_pair import import_torchvision

import_torchvision()

from fastai.vision.all import TfmdDL  # noqa: E402  (needs torchvision to be importable)

#: How a patient must be known, for one key to mean one patient at both sites. Folders of two sites may have
#: the same name by chance.
_SURE = (ToldBy.HEADER, ToldBy.LABEL, ToldBy.NAME)


def read_former(plan: Plan, site: Dataset) -> Dataset | None:
    """Return the labelled images of the former site, split like a run's own; None if the plan names none.

    Files and patients of the new site are left out. With the data, the seed and the recipe's split of the run
    that trained the model, the held-out images are those that it did not learn from.
    Raises SourceOutsideRoots, LabelledFolderMissing, TooFewImages, TooFewLabelled.
    """
    if plan.replay is None:
        return None
    return _apart(read_dataset(labelled_folder(plan.replay), plan.classes, plan.recipe), site)


def _apart(former: Dataset, site: Dataset) -> Dataset:
    """Return the former site's images without those whose file or patient the new site has, too."""
    digests = set(site.pictures.digests)
    patients = {image.group.key for image in site.pictures.images if image.group.told_by in _SURE}
    kept = [
        index
        for index, (image, digest) in enumerate(
            zip(former.pictures.images, former.pictures.digests, strict=True)
        )
        if digest not in digests and not (image.group.told_by in _SURE and image.group.key in patients)
    ]
    held_out = np.flatnonzero(np.isin(kept, former.held_out)).astype(np.int64)
    return replace(
        former,
        pictures=former.pictures.only(kept),
        labels=[former.labels[index] for index in kept],
        held_out=held_out,
        groups=former.groups[kept],
    )


class HalfReplayed(TfmdDL):  # type: ignore[misc]
    """Loads batches that are half pictures of the site and half replayed ones.

    An epoch shows each picture of the site once, and as many replayed ones: other ones in each epoch, or all
    of them several times if there are fewer.
    """

    def __init__(self, dataset: Any = None, *, own: int | None = None, **kwargs: Any) -> None:
        """`own` pictures of the site stand first in the dataset; None loads it as it is, for validation."""
        self.own = own
        super().__init__(dataset=dataset, **kwargs)
        if own is not None:
            self.n = 2 * own

    def get_idxs(self) -> Sequence[int]:
        """Return the indices of an epoch: one of the site, one replayed, and so on."""
        if self.own is None:
            return super().get_idxs()
        mine = self.rng.sample(range(self.own), self.own)
        replayed = self._replayed(range(self.own, len(self.dataset)))
        return [index for one in mine for index in (one, next(replayed))]

    def _replayed(self, indices: range) -> Iterator[int]:
        while True:
            yield from self.rng.sample(indices, len(indices))
