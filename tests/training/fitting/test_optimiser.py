"""The fused optimiser: it takes the steps of fastai's Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from training.fitting.optimiser import fused_adam
from worker.torchvision_pair import import_torchvision


def small_network() -> nn.Sequential:
    torch.manual_seed(5)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    # In double precision, so that rounding hides no difference.
    return nn.Sequential(body, head).double()


def optimiser_of(network: nn.Sequential, make: Callable[..., Any]) -> Any:
    """Return an optimiser of two groups, whose batch norm does not decay, as a Learner makes it."""
    found = make([list(part.parameters()) for part in network], lr=slice(1e-2, 5e-2))
    found.set_hypers(lr=slice(1e-2, 5e-2), wd=0.1)
    for parameter in network[0][1].parameters():
        found.state[parameter] |= {"do_wd": False, "force_train": True}
    return found


def take_steps(network: nn.Sequential, optimiser: Any, count: int, seed: int = 0) -> None:
    """Take steps with momenta that change, as they do in one cycle."""
    torch.manual_seed(seed)
    for number in range(count):
        optimiser.set_hyper("mom", 0.95 - 0.02 * number)
        pictures, truth = torch.randn(6, 3, 9, 9).double(), torch.randint(0, 2, (6,))
        nn.functional.cross_entropy(network(pictures), truth).backward()
        optimiser.step()
        optimiser.zero_grad()


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.fixture
def adam() -> Callable[..., Any]:
    """Give fastai's own Adam."""
    import_torchvision()
    from fastai.optimizer import Adam

    return Adam


@pytest.mark.parametrize("frozen", [True, False])
def test_its_steps_are_those_of_fastais_adam(adam: Callable[..., Any], frozen: bool) -> None:
    networks = [small_network(), small_network()]
    for network, make in zip(networks, (adam, fused_adam), strict=True):
        optimiser = optimiser_of(network, make)
        optimiser.freeze() if frozen else optimiser.unfreeze()
        take_steps(network, optimiser, 8)
    assert largest_difference(*networks) < 1e-9
    start = small_network()
    assert torch.equal(networks[1][0][0].weight, start[0][0].weight) is frozen
    assert not torch.equal(networks[1][0][1].weight, start[0][1].weight), "batch norm is always trained"


def test_weights_and_averages_may_lie_in_memory_in_different_orders() -> None:
    networks = [small_network(), small_network()]
    for network, layout in zip(networks, (torch.contiguous_format, torch.channels_last), strict=True):
        optimiser = optimiser_of(network, fused_adam)
        take_steps(network, optimiser, 3)
        # As when a run is resumed: a checkpoint holds contiguous averages.
        network.to(memory_format=layout)
        take_steps(network, optimiser, 3, seed=1)
    assert networks[1][0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert largest_difference(*networks) < 1e-9


def test_it_has_the_defaults_of_fastais_adam(adam: Callable[..., Any]) -> None:
    parameters = [list(small_network().parameters())]
    assert fused_adam(parameters, lr=0.1).hypers == adam(parameters, lr=0.1).hypers
