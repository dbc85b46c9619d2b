"""The model card: `model.json`, the description that travels with a model's weights."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from db.errors import PneumoscreenError

#: The class that is screened for. A model has it as a class, or has types of it whose probabilities add up to
#: it. Classes are found by name, never by column.
POSITIVE = "PNEUMONIA"

#: The version of the preprocessing from a file to a picture, in `worker.imaging`. Every prediction and every
#: model records it. Change it whenever any pixels change.
PREPROCESSING = "squeeze-bilinear-224/2"

#: Earlier versions whose models are used with this one. Version 2 differs from 1 only in pictures that 1 read
#: wrongly (docs/architecture.md lists them): such a picture was none that a model could learn from.
EARLIER_PREPROCESSINGS = ("squeeze-bilinear-224/1",)


class ModelInvalid(PneumoscreenError):
    """The model's files are not what this version of pneumoscreen understands. Import the model again."""

    code = "model-invalid"


class ModelPreprocessingMismatch(PneumoscreenError):
    """The model was made for another preprocessing than this version's. Retrain it, or promote one that fits.

    It would see other pictures than those that it learned from. `detail` names the two versions.
    """

    code = "model-preprocessing-mismatch"


Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: Shown in tables, reports and terminals.
ClassName = Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{0,31}$")]


#: Measures of `metrics.validation` that are shown in tables.
MEASURES = ("auc", "sensitivity", "specificity")


class Measure(BaseModel):
    """A share and its 95% interval; None if there were no images to measure it on."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: Share | None = None
    low: Share | None = None
    high: Share | None = None


class FasterPrecision(BaseModel):
    """What must be known of a number format to screen with it: it is learnt with the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: The difference from the log odds of single precision that is allowed for. If a larger one is possible,
    #: the picture is computed again.
    error: Annotated[float, Field(gt=0, le=100)]
    #: For whole numbers of 8 bits: the highest value of each rounded input of a convolution, by its name.
    ranges: dict[Annotated[str, Field(pattern=r"^[a-z0-9.]{1,32}$")], Positive] = {}
    #: How far it moves the logarithm of a distance (`worker.trust.familiarity`), but for rare pictures. If
    #: the limit of what is familiar is as near, the picture is computed again. None if it is unknown.
    distance_error: Annotated[float, Field(gt=0, le=100)] | None = None


class FamiliarityCard(BaseModel):
    """Which statistics tell a picture's familiarity, and how many pictures they were learnt from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: SHA-256 of `familiarity.safetensors`, hexadecimal.
    digest: Digest
    #: Training pictures that the features' distribution was learnt from.
    images: Annotated[int, Field(ge=1)]
    #: Pictures that the model did not learn from, whose distances tell what is usual.
    held_out: Annotated[int, Field(ge=1)]


class IntendedUse(BaseModel):
    """The images that a model is meant for. An image that says nothing of itself is not outside of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: The youngest and the oldest patient, in years of life that are completed; None if any age is meant.
    age_years: tuple[Annotated[int, Field(ge=0, le=150)], Annotated[int, Field(ge=0, le=150)]] | None = None
    #: Views, as View Position (0018,5101) names them; empty if any view is meant.
    views: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = ()
    #: Modalities (0008,0060); empty if any is meant.
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...] = ()


#: Fields that the cards of earlier versions do not have. A registered model takes them over.
ADDED_LATER = ("precisions", "familiarity", "intended_use")


class ModelCard(BaseModel):
    """Everything about a model but its weights."""

    # Pydantic keeps names that begin with "model_" for itself otherwise.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    format: Literal["pneumoscreen-model/1"] = "pneumoscreen-model/1"
    #: Backbone and the first 12 digits of the weights' digest: `resnet50-0123456789ab`. A version that was
    #: tuned for a site has 8 digits more: see `tuned_id_of`.
    model_id: Annotated[str, Field(pattern=r"^[a-z0-9]+-[0-9a-f]{12}(-[0-9a-f]{8})?$")]
    #: One of the thesis' four backbones, by torchvision's name.
    backbone: Literal["resnet18", "resnet34", "resnet50", "alexnet"]
    #: Class names in the order of the model's outputs.
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=16)]
    #: Those of them that are pneumonia: P(PNEUMONIA) is the sum of theirs.
    positives: Annotated[tuple[ClassName, ...], Field(min_length=1)] = (POSITIVE,)
    #: Per channel (R, G, B), of pixels scaled to [0, 1].
    mean: Channels
    std: tuple[Positive, Positive, Positive]
    #: The `PREPROCESSING` that the model was trained with.
    preprocessing: Annotated[str, Field(max_length=64)]
    #: Logits are divided by this before the softmax; fitted on validation data.
    temperature: Annotated[float, Field(gt=0)] = 1.0
    #: P(PNEUMONIA) at or above this is labelled PNEUMONIA.
    threshold: Share = 0.5
    #: SHA-256 of `model.safetensors`, hexadecimal.
    weights_digest: Digest
    #: The number formats that may be used beside single precision.
    precisions: dict[Annotated[str, Field(pattern=r"^(int8|bf16)$")], FasterPrecision] = {}
    #: The statistics beside the weights; None if the model cannot tell how familiar a picture is.
    familiarity: FamiliarityCard | None = None
    #: What the model is meant for; None if nobody has said it.
    intended_use: IntendedUse | None = None
    #: How it was trained: recipe, epochs, seed, initial weights, data fingerprint, software.
    training: dict[str, JsonValue] = {}
    #: What it scored on the images that were held out.
    metrics: dict[str, JsonValue] = {}

    @field_validator("preprocessing", "training", "metrics")
    @classmethod
    def _can_be_printed(cls, value: JsonValue) -> JsonValue:
        if not all(map(_is_plain, _leaves(value))):
            raise ValueError("a text has control characters, or a number is too large to print")
        return value

    @field_validator("metrics")
    @classmethod
    def _measures(cls, metrics: dict[str, JsonValue]) -> dict[str, JsonValue]:
        validation = metrics.get("validation") or {}
        if not isinstance(validation, dict):
            raise ValueError("the measures have no names")
        for name in MEASURES:
            Measure.model_validate(validation.get(name) or {})
        return metrics

    @model_validator(mode="after")
    def _has_positives(self) -> ModelCard:
        if len(set(self.classes)) != len(self.classes) or not set(self.positives) < set(self.classes):
            raise ValueError("classes must be distinct and hold the positives and one more")
        return self

    @property
    def positive_columns(self) -> list[int]:
        """The columns of the model's output whose sum is P(PNEUMONIA)."""
        return [self.classes.index(name) for name in self.positives]

    def check_preprocessing(self) -> None:
        """Raise ModelPreprocessingMismatch if the model was made for another version's pictures."""
        if self.preprocessing not in (PREPROCESSING, *EARLIER_PREPROCESSINGS):
            raise ModelPreprocessingMismatch(f"{self.preprocessing}, not {PREPROCESSING}")

    def differences(self, other: ModelCard) -> list[str]:
        """Return the fields that decide a prediction and differ from another card's.

        What only one of the cards says of familiarity and of the intended use is no difference.
        """
        # How it was trained and what it scored do not change a prediction, and faster precisions no label.
        without = ("training", "metrics", "precisions")
        optional = [name for name in ADDED_LATER if None in (getattr(self, name), getattr(other, name))]
        decisive = [name for name in type(self).model_fields if name not in (*without, *optional)]
        return [name for name in decisive if getattr(self, name) != getattr(other, name)]

    def completed(self, other: ModelCard) -> ModelCard:
        """Return this card with what it lacks and another card of the same model says.

        Number formats are learnt with the statistics, so they are taken over together.
        """
        lacking = [name for name in ADDED_LATER if getattr(other, name) and not getattr(self, name)]
        if "familiarity" in lacking and other.precisions:
            lacking.append("precisions")
        return self.model_copy(update={name: getattr(other, name) for name in lacking})

    def as_file(self) -> bytes:
        """Return the content of `model.json`."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def _leaves(value: JsonValue) -> Iterator[JsonValue]:
    """Yield every text, number and name in a JSON value."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def _is_plain(value: JsonValue) -> bool:
    if isinstance(value, str):
        return not any(unicodedata.category(letter) == "Cc" for letter in value)
    return not isinstance(value, int) or abs(value) < 2**63


def model_id_of(backbone: str, weights_digest: str) -> str:
    """Return the id of the model of these weights."""
    return f"{backbone}-{weights_digest[:12]}"


def tuned_id_of(card: ModelCard) -> str:
    """Return the id that a version of a model has if its temperature and threshold were tuned for a site.

    Both are part of the id, so that one id stands for one of each.
    """
    tuning = hashlib.sha256(f"{card.temperature!r} {card.threshold!r}".encode()).hexdigest()
    return f"{model_id_of(card.backbone, card.weights_digest)}-{tuning[:8]}"


def check_model_id(card: ModelCard) -> None:
    """Raise ModelInvalid if a model's id is not the one of its weights, or of its weights and its tuning."""
    if card.model_id not in (model_id_of(card.backbone, card.weights_digest), tuned_id_of(card)):
        raise ModelInvalid("model_id is not made of the backbone, weights_digest and, if tuned, the tuning")


def parse_card(content: bytes) -> ModelCard:
    """Return the card in JSON, or raise ModelInvalid with the names of the wrong fields."""
    try:
        return ModelCard.model_validate_json(content)
    except ValidationError as error:
        wrong = {str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]}
        # Only names of ours: others could hold anything.
        raise ModelInvalid(", ".join(sorted(wrong & ModelCard.model_fields.keys()))) from None
