"""The model that ships with pneumoscreen."""

from __future__ import annotations

from pathlib import Path

from db.errors import PneumoscreenError


class DefaultModelMissing(PneumoscreenError):
    """The default model is not in this installation. Install pneumoscreen again."""

    code = "default-model-missing"


def default_model() -> Path:
    """Return the folder of the default model's artefact."""
    folders = sorted(card.parent for card in Path(__file__).parent.glob("*/model.json"))
    if len(folders) != 1:
        raise DefaultModelMissing
    return folders[0]
