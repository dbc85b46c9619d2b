"""Outcomes of a comparison of backbones, before any statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One line of the thesis' tables; epoch 0 trains the head alone."""

    epoch: int
    train_loss: float
    valid_loss: float
    #: Share of the held-out images whose most probable class is the true one.
    accuracy: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out images; every list has one entry per image, in the same order for all backbones."""

    #: Class names in the order of the networks' outputs.
    classes: tuple[str, ...]
    #: Those of them that are pneumonia; P(PNEUMONIA) is the sum of theirs.
    positives: tuple[str, ...]
    #: int64, (N,), indices into `classes`.
    truth: NDArray[np.int64]
    #: int64, (N,): images of one patient have the same number.
    groups: NDArray[np.int64]
    #: SHA-256 of each file, hexadecimal, by which a report names an image.
    digests: tuple[str, ...]
    #: uint8, (N, 224, 224, 3), as the network sees them.
    pixels: NDArray[np.uint8]
    #: Subgroup by attribute and image, None if unknown: `{"type": ("BACTERIAL", None, ...)}`.
    subgroups: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    #: File names for the report, if the run's user asked for them; else empty.
    names: tuple[str, ...] = ()

    @property
    def positive_columns(self) -> list[int]:
        """The columns of class probabilities whose sum is P(PNEUMONIA)."""
        return [self.classes.index(name) for name in self.positives]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which images show pneumonia: bool, (N,)."""
        return np.isin(self.truth, self.positive_columns)


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers on the held-out images."""

    model: str
    #: P(PNEUMONIA), float64, (N,).
    probability: NDArray[np.float64]
    #: P(PNEUMONIA) at or above this is called pneumonia: one for all images, or float64, (N,).
    threshold: float | NDArray[np.float64]
    #: P(PNEUMONIA) with one temperature for all images, float64, (N,), which an AUC needs because it compares
    #: images; None if that is `probability`.
    ranking: NDArray[np.float64] | None = None

    @property
    def score(self) -> NDArray[np.float64]:
        """What the images are ordered by for an AUC: float64, (N,)."""
        return self.probability if self.ranking is None else self.ranking

    @property
    def called(self) -> NDArray[np.bool_]:
        """Which images the model calls pneumonia: bool, (N,)."""
        return self.probability >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneOutcome:
    """One backbone, trained with one seed."""

    backbone: str
    seed: int
    model_id: str
    epochs: tuple[EpochResult, ...]
    #: float64, (N, classes): calibrated probabilities of the held-out images.
    probabilities: NDArray[np.float64]
    temperature: float
    threshold: float
    seconds: float
    #: The most memory that the process (CPU) or the device (CUDA) held, in bytes.
    peak_memory_bytes: int
    #: SHA-256 of the file of initial weights; None means random weights.
    initial_weights_digest: str | None

    def answers(self, held_out: HeldOut) -> Answers:
        """Return its answers on the held-out images."""
        probability: NDArray[np.float64] = self.probabilities[:, held_out.positive_columns].sum(axis=1)
        return Answers(self.model_id, probability, self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedBackbone:
    """A backbone whose training failed; the others are not affected."""

    backbone: str
    seed: int
    #: The error's stable code.
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """The labelled images of a run, without a path or a name."""

    #: SHA-256 over the set of (file digest, class) pairs.
    fingerprint: str
    #: Images per class, by side of the split.
    training: dict[str, int]
    held_out: dict[str, int]
    #: Images that were left out because they could not be read, by code.
    unreadable: dict[str, int]
    #: Images that are a byte-for-byte or near copy of another one.
    duplicates: int
    #: Images by what their patient is known from, a value of `training.data.patients.ToldBy`.
    told_by: dict[str, int]
    #: Held-out images whose patient has images in training; 0 if the split is by patient.
    leaked: int
    #: Images that were left out because no file is known for their labels, or it may not be read.
    without_file: int = 0


class FittedOn(StrEnum):
    """The images that fitted the temperature and the threshold of the answers that a report measures."""

    #: None: the recipe sets both.
    NOTHING = "nothing"
    #: Held-out images of other patients: each image is judged by what the other folds fitted.
    OTHER_PATIENTS = "other patients"
    #: The very images that are measured, because there are too few patients to divide them.
    SAME_IMAGES = "the same images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A finished run."""

    run_id: int
    #: ISO 8601, UTC.
    finished_at: str
    #: `thesis` or `clinical`.
    recipe: str
    #: Every setting of the recipe, by name.
    settings: dict[str, object]
    #: Versions of Python, torch, torchvision, fastai, pillow and pneumoscreen, by name.
    software: dict[str, str]
    device: str
    data: DataSummary
    held_out: HeldOut
    outcomes: tuple[BackboneOutcome, ...]
    #: The answers of each outcome that are measured and compared, in the order of `outcomes`.
    answers: tuple[Answers, ...]
    fitted_on: FittedOn
    #: In how many parts the held-out images were divided for `FittedOn.OTHER_PATIENTS`, else 0.
    folds: int
    failed: tuple[FailedBackbone, ...]
    #: float64, (N,): P(PNEUMONIA) by a logistic regression on 16x16 thumbnails, fitted on the training side.
    baseline: NDArray[np.float64]
    #: The id of the model that the training went on from; None if it began with ImageNet weights.
    continued_from: str | None = None

    @property
    def names(self) -> list[str]:
        """The name of each outcome in the report: its backbone, and its seed if there are several."""
        several = len({one.seed for one in self.outcomes}) > 1
        return [f"{one.backbone} (seed {one.seed})" if several else one.backbone for one in self.outcomes]
