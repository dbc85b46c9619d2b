"""Augmentation: it removes features that separate the classes but are no sign of disease."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import roc_auc_score

from training.fitting.augment import SHARE, STEPS, break_shortcuts, geometry, intensity, resolution

Step = Callable[[torch.Tensor], torch.Tensor]
Feature = Callable[[torch.Tensor], torch.Tensor]


def pictures(
    count: int = 32, side: int = 64, *, level: float = 0.5, margin: int = 0, grain: int = 16
) -> torch.Tensor:
    """Draw noise of a brightness, with `grain` spots in each direction, in a black margin."""
    noise = torch.nn.functional.interpolate(
        torch.randn(count, 1, grain, grain), size=(side, side), mode="bilinear"
    )
    batch = (level + 0.05 * noise).clamp(0, 1).expand(-1, 3, -1, -1).clone()
    if margin:
        batch[..., :margin] = batch[..., -margin:] = 0
    return batch


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("step", [*STEPS, break_shortcuts], ids=lambda step: step.__name__)
def test_a_step_keeps_shape_and_range_and_is_drawn_from_torchs_generator(step: Step) -> None:
    batch = pictures()
    torch.manual_seed(3)
    first = step(batch.clone())
    torch.manual_seed(3)
    second = step(batch.clone())
    assert first.shape == batch.shape
    assert first.dtype is torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, batch)


def brightness(batch: torch.Tensor) -> torch.Tensor:
    return batch.mean(dim=(1, 2, 3))


def sharpness(batch: torch.Tensor) -> torch.Tensor:
    return (batch[..., 1:] - batch[..., :-1]).abs().mean(dim=(1, 2, 3))


def dark_columns(batch: torch.Tensor) -> torch.Tensor:
    return (batch.mean(dim=(1, 2)) < 0.05).float().mean(dim=1)


@pytest.mark.parametrize(
    ("step", "feature", "one", "other"),
    [
        (intensity, brightness, pictures(200, level=0.55), pictures(200, level=0.45)),
        (geometry, dark_columns, pictures(200, margin=6), pictures(200, margin=3)),
        (resolution, sharpness, pictures(200, grain=64), pictures(200, grain=40)),
    ],
)
def test_a_feature_that_separated_two_classes_no_longer_does(
    step: Step, feature: Feature, one: torch.Tensor, other: torch.Tensor
) -> None:
    truth = [1] * len(one) + [0] * len(other)
    both = torch.cat([one, other])
    assert roc_auc_score(truth, feature(both)) > 0.99
    assert roc_auc_score(truth, feature(step(both.clone()))) < 0.85


def test_a_part_of_the_pictures_is_left_as_it_was() -> None:
    batch = pictures(400, 16)
    untouched = (break_shortcuts(batch) == batch).all(dim=(1, 2, 3)).float().mean()
    # A step leaves some pictures as they are, so this is more than the share that no step is applied to.
    assert (1 - SHARE) ** len(STEPS) <= float(untouched) <= 0.25
