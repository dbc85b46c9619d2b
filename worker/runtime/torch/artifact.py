"""The writing of a model: its weights as safetensors, and its card."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from db.atomic import needs_room, write_whole
from db.models.card import ModelCard
from db.models.store import CARD_FILE, parts_of

State = dict[str, torch.Tensor]


def pack_weights(state: State) -> bytes:
    """Return weights as safetensors: matrices and filters in half precision, all others unchanged.

    Half precision halves the file. The vectors of batch norm stay in single precision: its running variances
    exceed the range of half precision.
    """
    packed = {}
    for name, tensor in state.items():
        halved = tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        packed[name] = halved.detach().cpu().contiguous()
    return save(packed)


def write_artifact(folder: Path, card: ModelCard, weights: bytes, statistics: bytes | None = None) -> None:
    """Write a model's files. The card is last: a folder with a card is complete. Raises DiskFull."""
    card_file = folder / CARD_FILE
    with needs_room():
        folder.mkdir(parents=True, exist_ok=True)
        card_file.unlink(missing_ok=True)
        for name, content in parts_of(card, weights, statistics):
            with write_whole(folder / name) as file:
                file.write(content)
