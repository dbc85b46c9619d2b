"""The baseline: a classifier on thumbnails that show no lung."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.data.duplicates import thumbnails


def thumbnail_baseline(dataset: Dataset) -> NDArray[np.float64]:
    """Return P(PNEUMONIA) of the held-out pictures by a logistic regression on 16x16 thumbnails.

    At that size only brightness and framing are left, so the baseline measures what shortcuts alone achieve.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found, positive = thumbnails(dataset.pictures.pixels), dataset.positive
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(found[dataset.training], positive[dataset.training])
    probability: NDArray[np.float64] = model.predict_proba(found[dataset.held_out])[:, 1]
    return probability
