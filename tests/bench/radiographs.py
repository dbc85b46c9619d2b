"""Full-size radiographs for benches: the ground-truth data if it is there, else drawn ones of that size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import SHARED
from worker.phantoms import draw_phantom

#: Height and width of a drawn radiograph: the mean of the real ones is 1.4 million pixels.
_SIZE = (1000, 1500)
_DRAWN = 24


def radiographs(folder: Path) -> list[Path]:
    """Return JPEG files; drawn ones are written into a folder."""
    real = sorted((SHARED / "data" / "chest_xray_original").rglob("*.jpeg"))
    if real:
        return real
    drawn = []
    folder.mkdir(exist_ok=True)
    for seed in range(_DRAWN):
        film = Image.fromarray((draw_phantom(seed) * 255).astype(np.uint8)).resize(_SIZE[::-1])
        grain = np.random.default_rng(seed).normal(0, 4, _SIZE)
        pixels = np.clip(np.asarray(film) + grain, 0, 255).astype(np.uint8)
        drawn.append(folder / f"{seed}.jpeg")
        Image.fromarray(pixels).save(drawn[-1], quality=90)
    return drawn


def repeat(files: list[Path], folder: Path, times: int) -> int:
    """Copy files into a folder several times; return how many there are then."""
    for number in range(times):
        (folder / str(number)).mkdir(parents=True)
        for place, file in enumerate(files):
            shutil.copy(file, folder / str(number) / f"{place}{file.suffix}")
    return times * len(files)
