"""Labelled images that any classifier can separate, and training runs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from db.engine import Database
from db.training.runs import open_run
from training.plan import Plan
from training.recipe import Recipe

Draw = Callable[[Path, str, float, np.random.Generator], None]
Start = Callable[..., int]


def draw_noise(folder: Path, name: str, level: float, random: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(random.normal(level, 20, (64, 64)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draw noise of a brightness into a file."""
    return draw_noise


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 12 dark normal images and 12 bright ones of pneumonia, the viral ones brighter than the others."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(4)
    for number in range(12):
        draw_noise(folder / "NORMAL", f"IM-{number}.png", 60, random)
        kind, level = (("bacteria", 150), ("virus", 210))[number % 2]
        draw_noise(folder / "PNEUMONIA", f"person{number}_{kind}_{number}.png", level, random)
    return folder


def open_random_run(database: Database, recipe: Recipe, data: Path | None, **fields: Any) -> int:
    backbones = fields.pop("backbones", ("resnet18",))
    plan = Plan(recipe=recipe, data=data, backbones=backbones, random_weights=backbones, **fields)
    with database.write() as session:
        return open_run(session, plan.model_dump(mode="json"), for_worker=False).id


@pytest.fixture(scope="session")
def start() -> Start:
    """Open a run from random weights and return its id."""
    return open_random_run
