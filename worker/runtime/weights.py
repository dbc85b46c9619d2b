"""The weights of a model, read from safetensors: a format that holds numbers and no code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from db.models.card import ModelInvalid
from db.models.store import WEIGHTS_FILE


def unpack_weights(content: bytes, file: str = WEIGHTS_FILE) -> dict[str, NDArray[np.generic]]:
    """Return packed weights by name: numbers in single precision, counters unchanged.

    Raises ModelInvalid, which names the `file`.
    """
    try:
        state = load(content)
    except SafetensorError as error:
        raise ModelInvalid(file) from error
    if not all(np.isfinite(values).all() for values in state.values()):
        raise ModelInvalid(f"{file} holds a value that is not a finite number")
    # Copies: the library's arrays cannot be written to, which PyTorch warns of.
    return {
        name: np.array(values, np.float32 if np.issubdtype(values.dtype, np.floating) else values.dtype)
        for name, values in state.items()
    }
