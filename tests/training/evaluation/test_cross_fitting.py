"""Cross-fitting: which images fit what an image is judged by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.evaluation.cross_fitting import plan_cross_fitting
from training.fitting.calibration import calibrate
from training.outcome import BackboneOutcome, EpochResult, FittedOn, HeldOut
from training.recipe import RECIPES, RecipeName

N = 400
CLASSES = ("NORMAL", "PNEUMONIA")
CLINICAL, THESIS = RECIPES[RecipeName.CLINICAL], RECIPES[RecipeName.THESIS]


def held_out(n: int = N, per_patient: int = 2) -> HeldOut:
    truth = (np.arange(n) // per_patient % 4 > 0).astype(np.int64)
    return HeldOut(
        classes=CLASSES,
        positives=("PNEUMONIA",),
        truth=truth,
        groups=np.arange(n) // per_patient,
        digests=("",) * n,
        pixels=np.zeros((n, 1, 1, 3), np.uint8),
    )


def outcome(images: HeldOut, seed: int = 1) -> BackboneOutcome:
    """Make an outcome as `write_candidate` does: calibrated on all images."""
    score = np.random.default_rng(seed).normal(images.truth * 2.0 - 1, 3)
    logits = np.stack([np.zeros_like(score), score * 2], axis=1).astype(np.float32)
    fitted = calibrate(logits, images.truth, CLASSES, CLINICAL.target_sensitivity)
    return BackboneOutcome(
        backbone="resnet18",
        seed=42,
        model_id="resnet18-0123456789ab",
        epochs=(EpochResult(epoch=0, train_loss=0.1, valid_loss=0.2, accuracy=0.9),),
        probabilities=fitted.probabilities(logits),
        temperature=fitted.temperature,
        threshold=fitted.threshold,
        seconds=1.0,
        peak_memory_bytes=1,
        initial_weights_digest=None,
    )


def test_no_image_is_judged_by_what_its_own_patient_fitted() -> None:
    images = held_out()
    fitting = plan_cross_fitting(images, CLINICAL)
    assert (fitting.folds, fitting.fitted_on) == (5, FittedOn.OTHER_PATIENTS)
    assert fitting.fold is not None
    for patient in np.unique(images.groups):
        assert len(set(fitting.fold[images.groups == patient])) == 1
    one = outcome(images)
    before = fitting.answers(one, images)
    # The images of one fold change; what judges that fold must stay as it is.
    inside = fitting.fold == 2
    changed = one.probabilities.copy()
    changed[inside] = changed[inside][:, ::-1]
    after = fitting.answers(replace(one, probabilities=changed), images)
    assert isinstance(before.threshold, np.ndarray)
    assert isinstance(after.threshold, np.ndarray)
    assert np.array_equal(before.threshold[inside], after.threshold[inside])
    assert not np.array_equal(before.threshold[~inside], after.threshold[~inside])


def test_each_fold_is_judged_as_if_the_other_images_were_all() -> None:
    images = held_out()
    fitting, one = plan_cross_fitting(images, CLINICAL), outcome(images)
    answers = fitting.answers(one, images)
    assert fitting.fold is not None
    inside = fitting.fold == 0
    logits = (np.log(one.probabilities) * one.temperature).astype(np.float32)
    expected = calibrate(logits[~inside], images.truth[~inside], CLASSES, CLINICAL.target_sensitivity)
    assert answers.probability[inside] == pytest.approx(expected.probabilities(logits[inside])[:, 1])
    assert isinstance(answers.threshold, np.ndarray)
    assert set(answers.threshold[inside]) == {expected.threshold}
    own = one.answers(images)
    assert np.array_equal(answers.score, own.probability), "an AUC orders images by one temperature"


def test_measuring_where_the_threshold_was_fitted_flatters_and_cross_fitting_does_not() -> None:
    images = held_out(100)
    fitting = plan_cross_fitting(images, CLINICAL)
    where_fitted, on_others = [], []
    for seed in range(12):
        one = outcome(images, seed=seed)
        where_fitted.append(one.answers(images).called[images.positive].mean())
        on_others.append(fitting.answers(one, images).called[images.positive].mean())
    assert min(where_fitted) >= 0.97
    assert np.mean(on_others) < np.mean(where_fitted)
    assert min(on_others) < 0.97


def test_the_division_is_the_same_for_every_backbone_and_seeded() -> None:
    images = held_out()
    first, again = (plan_cross_fitting(images, CLINICAL).fold for _ in range(2))
    assert first is not None
    assert np.array_equal(first, again)
    other = plan_cross_fitting(images, replace(CLINICAL, seed=7)).fold
    assert not np.array_equal(first, other)


def test_a_recipe_that_fits_nothing_is_measured_as_it_is() -> None:
    images = held_out()
    fitting = plan_cross_fitting(images, THESIS)
    assert (fitting.folds, fitting.fitted_on) == (0, FittedOn.NOTHING)
    one = replace(outcome(images), temperature=1.0, threshold=0.5)
    assert fitting.answers(one, images).threshold == 0.5


def test_too_few_patients_are_measured_where_they_fitted_and_that_is_said() -> None:
    images = replace(held_out(8), groups=np.array([0, 0, 0, 0, 0, 0, 0, 0]))
    fitting = plan_cross_fitting(images, CLINICAL)
    assert fitting.fitted_on is FittedOn.SAME_IMAGES
    assert fitting.answers(outcome(images), images).threshold == outcome(images).threshold
    few = plan_cross_fitting(held_out(16), CLINICAL)
    assert (few.folds, few.fitted_on) == (2, FittedOn.OTHER_PATIENTS)
