"""The weights of a model as safetensors, which hold numbers and nothing that can run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from db.atomic import needs_room, write_whole
from db.models.card import CARD_FILE, WEIGHTS_FILE, ModelCard, ModelInvalid, read_checked_weights

State = dict[str, torch.Tensor]


def pack_weights(state: State) -> bytes:
    """Return weights as safetensors: matrices and filters in half precision, the rest as they are.

    Half precision halves the file; batch norm's vectors stay in single precision, since its running
    variances span more than half precision's range.
    """
    packed = {}
    for name, tensor in state.items():
        halved = tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        packed[name] = halved.detach().cpu().contiguous()
    return save(packed)


def read_weights(folder: Path, digest: str) -> State:
    """Read weights in single precision.

    Raises ModelMissing, ModelDigestMismatch where they are not the registered ones, ModelInvalid.
    """
    return unpack_weights(read_checked_weights(folder, digest))


def unpack_weights(content: bytes) -> State:
    """Return packed weights in single precision. Raises ModelInvalid."""
    try:
        state = load(content)
    except SafetensorError as error:
        raise ModelInvalid(WEIGHTS_FILE) from error
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ModelInvalid(f"{WEIGHTS_FILE} holds what is no finite number")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def write_artifact(folder: Path, card: ModelCard, weights: bytes) -> None:
    """Write a model's two files; the card last, so that a folder with a card is whole. Raises DiskFull."""
    card_file = folder / CARD_FILE
    with needs_room():
        folder.mkdir(parents=True, exist_ok=True)
        card_file.unlink(missing_ok=True)
        for name, content in ((WEIGHTS_FILE, weights), (CARD_FILE, card.as_file())):
            with write_whole(folder / name) as file:
                file.write(content)
