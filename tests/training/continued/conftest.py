"""Another site, whose pictures a model learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.recipe import RECIPES, Recipe, RecipeName


@pytest.fixture(scope="session")
def former(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., None]) -> Path:
    """Draw 15 pictures of each class: pneumonia is dark here, and bright at the new site."""
    folder = tmp_path_factory.mktemp("former")
    random = np.random.default_rng(9)
    for number in range(15):
        draw(folder / "NORMAL", f"old-{number}.png", 180, random)
        draw(folder / "PNEUMONIA", f"old-{number}.png", 90, random)
    return folder


@pytest.fixture
def recipe() -> Recipe:
    """Return the recipe for sites, but short."""
    return replace(RECIPES[RecipeName.SITE], epochs=2, batch_size=4)
