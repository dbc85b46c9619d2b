"""The description that travels with a model's weights, `model.json`, and how the two are tied together."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
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

#: What is looked for. A model has it as a class, or types of it whose probabilities add up to it; found by
#: name, never by column.
POSITIVE = "PNEUMONIA"

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"

#: Names what happens between a file and a picture, in `worker.imaging`. Stored with every prediction and
#: every model, which is used with this version alone: change it whenever the pixels of any picture change.
PREPROCESSING = "squeeze-bilinear-224/1"

#: Largest `model.safetensors`, in bytes: more than twice the largest of the four backbones, ResNet-50 with
#: its head, in single precision (103 million bytes).
_WEIGHTS_BYTES = 256 << 20
#: Largest `model.json`, and the largest header of `model.safetensors`: those of ResNet-50 have 3 and 33 kB.
_TEXT_BYTES = 1 << 20
#: Number formats of weights: single and half precision, and batch norm's counters.
_FORMATS = frozenset({"F32", "F16", "I64"})


class ModelMissing(PneumoscreenError):
    """The model's folder does not hold `model.json` and `model.safetensors`. Import the model again."""

    code = "model-missing"


class ModelInvalid(PneumoscreenError):
    """The model's files are not what this version of pneumoscreen understands. Import the model again."""

    code = "model-invalid"


class ModelDigestMismatch(PneumoscreenError):
    """The model's weights are not the ones that were registered. Do not use them; import the model again."""

    code = "model-digest-mismatch"


class ModelPreprocessingMismatch(PneumoscreenError):
    """The model was made for another preprocessing than this version's. Retrain it, or promote one that fits.

    It would see other pictures than those it learned from. `detail` says which two versions.
    """

    code = "model-preprocessing-mismatch"


Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
#: It stands in tables, reports and terminals.
ClassName = Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{0,31}$")]


#: What `metrics.validation` holds of these is shown in tables.
MEASURES = ("auc", "sensitivity", "specificity")


class Measure(BaseModel):
    """A share and its 95% interval; None where no image could tell."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: Share | None = None
    low: Share | None = None
    high: Share | None = None


class ModelCard(BaseModel):
    """Everything about a model but its weights."""

    # Pydantic keeps names that begin with "model_" for itself otherwise.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    format: Literal["pneumoscreen-model/1"] = "pneumoscreen-model/1"
    #: Backbone and the first 12 digits of the weights' digest: `resnet50-0123456789ab`.
    model_id: Annotated[str, Field(pattern=r"^[a-z0-9]+-[0-9a-f]{12}$")]
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
    weights_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: How it was trained: recipe, epochs, seed, initial weights, data fingerprint, software.
    training: dict[str, JsonValue] = {}
    #: What it scored on the images that were held out.
    metrics: dict[str, JsonValue] = {}

    @field_validator("preprocessing", "training", "metrics")
    @classmethod
    def _can_be_printed(cls, value: JsonValue) -> JsonValue:
        if not all(map(_is_plain, _leaves(value))):
            raise ValueError("a text writes to terminals, or a number is too large to print")
        return value

    @field_validator("metrics")
    @classmethod
    def _measures(cls, metrics: dict[str, JsonValue]) -> dict[str, JsonValue]:
        validation = metrics.get("validation") or {}
        if not isinstance(validation, dict):
            raise ValueError("what it scored has no names")
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
        if self.preprocessing != PREPROCESSING:
            raise ModelPreprocessingMismatch(f"{self.preprocessing}, not {PREPROCESSING}")

    def differences(self, other: ModelCard) -> list[str]:
        """Return the fields that decide a prediction and differ from another card's."""
        # How it was trained and what it scored decide nothing.
        decisive = [name for name in type(self).model_fields if name not in ("training", "metrics")]
        return [name for name in decisive if getattr(self, name) != getattr(other, name)]

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


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def model_id_of(backbone: str, weights_digest: str) -> str:
    """Return the id of the model of these weights."""
    return f"{backbone}-{weights_digest[:12]}"


def read_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises ModelMissing if a file is not there, ModelInvalid if the card does not hold what it must, or if the
    model's id is not that of its weights.
    """
    if not os.path.lexists(folder / WEIGHTS_FILE):
        raise ModelMissing
    card = parse_card(_read(folder, CARD_FILE, _TEXT_BYTES))
    if card.model_id != model_id_of(card.backbone, card.weights_digest):
        raise ModelInvalid("model_id is not the backbone with the beginning of weights_digest")
    return card


def parse_card(content: bytes) -> ModelCard:
    """Return the card in JSON, or raise ModelInvalid naming the fields that are not as they must be."""
    try:
        return ModelCard.model_validate_json(content)
    except ValidationError as error:
        wrong = {str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]}
        # Names that are none of ours could hold anything.
        raise ModelInvalid(", ".join(sorted(wrong & ModelCard.model_fields.keys()))) from None


def read_checked_weights(folder: Path, digest: str) -> bytes:
    """Return the bytes of `model.safetensors` once they are shown to be the registered ones, and safetensors.

    The bytes that are checked are the bytes that are used: the file is read once.
    Raises ModelMissing, ModelDigestMismatch, ModelInvalid.
    """
    content = _read(folder, WEIGHTS_FILE, _WEIGHTS_BYTES)
    if digest_of(content) != digest:
        raise ModelDigestMismatch
    _check_header(content)
    return content


def _read(folder: Path, name: str, most: int) -> bytes:
    """Return a regular file's bytes; neither it nor its folder may be a link.

    Raises ModelMissing, ModelInvalid.
    """
    try:
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # Without waiting: a pipe would hold us until somebody writes to it.
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
        finally:
            os.close(inside)
    except FileNotFoundError:
        raise ModelMissing from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise ModelInvalid(f"{name} is a link or no file") from None
        raise
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ModelInvalid(f"{name} is a link or no file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ModelInvalid(f"{name} is larger than any model's")
    return content


def _check_header(content: bytes) -> None:
    """Raise ModelInvalid for what no model's safetensors begin with, before a library reads them.

    Eight bytes give the length of a JSON object, which names tensors with their number formats. A pickle that
    has the file's name ends here.
    """
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(_TEXT_BYTES, len(content) - 8) or content[8:9] != b"{":
        raise ModelInvalid(f"{WEIGHTS_FILE} is not safetensors")
    try:
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        formats = {tensor["dtype"] for tensor in header.values()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise ModelInvalid(f"{WEIGHTS_FILE} is not safetensors") from None
    if not formats <= _FORMATS:
        raise ModelInvalid(f"{WEIGHTS_FILE} has other number formats than {', '.join(sorted(_FORMATS))}")
