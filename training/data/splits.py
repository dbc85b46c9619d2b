"""Splits of labelled images into a training side and a held-out side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from db.errors import PneumoscreenError


class TooFewLabelled(PneumoscreenError):
    """A class has too few images, patients or folders to hold out a fifth. Label more images of it."""

    code = "too-few-labelled"


def grouped_split(
    labels: list[str], groups: NDArray[np.int64], *, held_out: float = 0.2, seed: int = 42
) -> NDArray[np.int64]:
    """Return the indices of held-out images: groups stay whole, classes keep their shares.

    Raises TooFewLabelled if a class has fewer groups than there are folds.
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
    """Return the indices of held-out images, drawn as the thesis drew them: by fastai's `RandomSplitter`.

    Raises TooFewLabelled if a class is missing on one side.
    """
    from fastai.data.transforms import RandomSplitter

    train, valid = (list(side) for side in RandomSplitter(held_out, seed=seed)(labels))
    for label in sorted(set(labels)):
        if not all(any(labels[index] == label for index in side) for side in (train, valid)):
            raise TooFewLabelled(label)
    return np.array(valid, dtype=np.int64)
