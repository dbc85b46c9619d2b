"""Images of a site whose truth and answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from training.outcome import Answers, HeldOut

#: Makes images and answers: positives, negatives, wrong answers among each, images of one patient.
Site = Callable[..., tuple[HeldOut, Answers]]


@pytest.fixture
def site() -> Site:
    """Make images of which a part is judged wrongly."""

    def make(
        positive: int = 200, negative: int = 200, missed: int = 0, called: int = 0, each: int = 1
    ) -> tuple[HeldOut, Answers]:
        truth = np.repeat([1, 0], [positive, negative])
        wrong = np.zeros(len(truth), dtype=bool)
        wrong[:missed] = True
        wrong[positive : positive + called] = True
        images = HeldOut(
            classes=("NORMAL", "PNEUMONIA"),
            positives=("PNEUMONIA",),
            truth=truth,
            groups=np.arange(len(truth)) // each,
            digests=("",) * len(truth),
            pixels=np.zeros((len(truth), 1, 1, 3), np.uint8),
            subgroups={"sex": tuple(("female", "male")[i % 2] for i in range(len(truth)))},
        )
        random = np.random.default_rng(0)
        confidence = random.uniform(0.6, 0.99, len(truth))
        right = np.where(truth == 1, confidence, 1 - confidence)
        return images, Answers("resnet18-1", np.where(wrong, 1 - right, right), 0.5)

    return make
