"""The trivial baseline: what can be told without seeing a lung."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.duplicates import thumbnails


def thumbnail_baseline(
    pixels: NDArray[np.uint8], positive: NDArray[np.bool_], held_out: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return P(PNEUMONIA) of the held-out pictures by a logistic regression on 16x16 thumbnails.

    At that size nothing of pneumonia is left but brightness and framing: what it scores is shortcut.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = thumbnails(pixels)
    training = np.delete(np.arange(len(pixels)), held_out)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(found[training], positive[training])
    probability: NDArray[np.float64] = model.predict_proba(found[held_out])[:, 1]
    return probability
