"""Cross-fitting: each held-out image is judged by a temperature and threshold that other patients fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.fitting.calibration import calibrate
from training.outcome import Answers, BackboneOutcome, FittedOn, HeldOut
from training.recipe import Recipe

#: Each image is judged by what four fifths of the images fitted, nearly as many as fit the model itself.
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class CrossFitting:
    """The division of the held-out images into folds; the same for all backbones of a run."""

    target_sensitivity: float | None
    #: The fold of each image, int64, (N,); None if the images are not divided.
    fold: NDArray[np.int64] | None

    @property
    def folds(self) -> int:
        """The number of folds, 0 if the images are not divided."""
        return 0 if self.fold is None else int(self.fold.max()) + 1

    @property
    def fitted_on(self) -> FittedOn:
        """The images that fit what an image is judged by."""
        if self.target_sensitivity is None:
            return FittedOn.NOTHING
        return FittedOn.SAME_IMAGES if self.fold is None else FittedOn.OTHER_PATIENTS

    def answers(self, outcome: BackboneOutcome, held_out: HeldOut) -> Answers:
        """Return the answers of one backbone, each with the temperature and threshold of the other folds."""
        logits = logits_of(outcome.probabilities, outcome.temperature)
        return self.refitted(outcome.answers(held_out), logits, held_out)

    def refitted(self, own: Answers, logits: NDArray[np.float32], held_out: HeldOut) -> Answers:
        """Return a model's answers with the temperature and threshold of the other folds.

        `own` are its answers with its own, `logits` (N, classes) what they were made of.
        """
        if self.fold is None:
            return own
        probability, threshold = own.probability.copy(), np.empty(len(own.probability))
        for number in range(self.folds):
            inside = self.fold == number
            fitted = calibrate(
                logits[~inside], held_out.truth[~inside], held_out.classes, self.target_sensitivity
            )
            judged = fitted.probabilities(logits[inside])
            probability[inside] = judged[:, held_out.positive_columns].sum(axis=1)
            threshold[inside] = fitted.threshold
        return Answers(own.model, probability, threshold, ranking=own.probability)


def logits_of(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float32]:
    """Return logits (N, classes), up to a constant per image, of probabilities with that temperature."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return (logs * temperature).astype(np.float32)


def plan_cross_fitting(held_out: HeldOut, recipe: Recipe) -> CrossFitting:
    """Divide the held-out images by patient, with the recipe's seed and both classes in every part.

    They are not divided if the recipe fits nothing, or if a class has fewer than two patients.
    """
    target, positive, groups = recipe.target_sensitivity, held_out.positive, held_out.groups
    folds = min(_FOLDS, *(len(np.unique(groups[side])) for side in (positive, ~positive)))
    if target is None or folds < 2:
        return CrossFitting(target, None)
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=recipe.seed)
    fold = np.zeros(len(positive), dtype=np.int64)
    for number, (_, inside) in enumerate(splitter.split(positive, positive, groups)):
        fold[inside] = number
    fits = [positive[fold != number] for number in range(folds)]
    usable = all(part.any() and not part.all() for part in fits)
    return CrossFitting(target, fold if usable else None)
