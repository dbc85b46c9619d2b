"""The description that travels with a model's weights, `model.json`, and how the two are tied together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from db.errors import PneumoscreenError

#: What is looked for. A model has it as a class, or types of it whose probabilities add up to it; found by
#: name, never by column.
POSITIVE = "PNEUMONIA"

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"


class ModelMissing(PneumoscreenError):
    """The model's folder does not hold `model.json` and `model.safetensors`. Import the model again."""

    code = "model-missing"


class ModelInvalid(PneumoscreenError):
    """The model's files are not what this version of pneumoscreen understands. Import the model again."""

    code = "model-invalid"


class ModelDigestMismatch(PneumoscreenError):
    """The model's weights are not the ones that were registered. Do not use them; import the model again."""

    code = "model-digest-mismatch"


Channels = tuple[float, float, float]


class ModelCard(BaseModel):
    """Everything about a model but its weights."""

    # Pydantic keeps names that begin with "model_" for itself otherwise.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: Literal["pneumoscreen-model/1"] = "pneumoscreen-model/1"
    #: Backbone and the first 12 digits of the weights' digest: `resnet50-0123456789ab`.
    model_id: Annotated[str, Field(pattern=r"^[a-z0-9]+-[0-9a-f]{12}$")]
    #: One of the thesis' four backbones, by torchvision's name.
    backbone: Literal["resnet18", "resnet34", "resnet50", "alexnet"]
    #: Class names in the order of the model's outputs.
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    #: Those of them that are pneumonia: P(PNEUMONIA) is the sum of theirs.
    positives: Annotated[tuple[str, ...], Field(min_length=1)] = (POSITIVE,)
    #: Per channel (R, G, B), of pixels scaled to [0, 1].
    mean: Channels
    std: Channels
    #: The `worker.imaging.PREPROCESSING` that the model was trained with.
    preprocessing: str
    #: Logits are divided by this before the softmax; fitted on validation data.
    temperature: Annotated[float, Field(gt=0)] = 1.0
    #: P(PNEUMONIA) at or above this is labelled PNEUMONIA.
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    #: SHA-256 of `model.safetensors`, hexadecimal.
    weights_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: How it was trained: recipe, epochs, seed, initial weights, data fingerprint, software.
    training: dict[str, JsonValue] = {}
    #: What it scored on the images that were held out.
    metrics: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _has_positives(self) -> ModelCard:
        if len(set(self.classes)) != len(self.classes) or not set(self.positives) < set(self.classes):
            raise ValueError("classes must be distinct and hold the positives and one more")
        return self

    @property
    def positive_columns(self) -> list[int]:
        """The columns of the model's output whose sum is P(PNEUMONIA)."""
        return [self.classes.index(name) for name in self.positives]


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises ModelMissing where a file is not there, ModelInvalid where the card does not hold what it must.
    """
    if not (folder / CARD_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelMissing
    try:
        return ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except ValidationError as error:
        fields = sorted({".".join(map(str, part["loc"])) for part in error.errors()})
        raise ModelInvalid(", ".join(fields)) from error


def read_checked_weights(folder: Path, digest: str) -> bytes:
    """Return the bytes of `model.safetensors` once they are shown to be the registered ones.

    The bytes that are checked are the bytes that are used: the file is read once.
    Raises ModelMissing, ModelDigestMismatch.
    """
    try:
        content = (folder / WEIGHTS_FILE).read_bytes()
    except FileNotFoundError as error:
        raise ModelMissing from error
    if digest_of(content) != digest:
        raise ModelDigestMismatch
    return content
