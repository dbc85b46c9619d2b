"""Pictures for the runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.pictures import read_picture


@pytest.fixture(scope="module")
def pictures(phantoms: Path) -> np.ndarray:
    """Read phantoms, which the shipped model is sure of, and noise, which it is not."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    read = [read_picture(file).pixels for file in sorted((phantoms / "jpeg").iterdir())]
    return np.stack([*read, *np.kron(noise, np.ones((1, 8, 8, 1), dtype=np.uint8))])
