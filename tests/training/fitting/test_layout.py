"""The layout of activations: it changes the speed of a training and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.fitting.backbones import RANDOM_WEIGHTS, initial_network
from training.fitting.layout import blocked, is_blocked
from training.recipe import BACKBONES
from worker.runtime.protocol import Precision

CPU = torch.device("cpu")


def gradients(network: nn.Module, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter after one step's backward pass."""
    nn.functional.cross_entropy(network(pictures), torch.tensor([0, 1] * (len(pictures) // 2))).backward()
    return {name: one.grad for name, one in network.named_parameters() if one.grad is not None}


def double_precision(network: nn.Module, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    return gradients(network.double(), pictures.double())


def distance(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Return the distance of all gradients from the right ones, relative to these."""
    assert found.keys() == right.keys()
    apart = sum(float((found[name] - right[name]).square().sum()) for name in right)
    return (apart / sum(float(one.square().sum()) for one in right.values())) ** 0.5


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_and_batch_norm_differ_from_those_of_pytorchs_own_layout_by_rounding_alone(
    backbone: str, frozen: bool
) -> None:
    torch.manual_seed(2)
    plain = initial_network(backbone, 2, RANDOM_WEIGHTS).train()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if frozen and isinstance(module, nn.Conv2d):
            module.requires_grad_(False)
    other, exact = copy.deepcopy(plain), copy.deepcopy(plain)
    pictures = torch.randn(4, 3, 64, 64)
    right = double_precision(exact, pictures)
    expected = distance(gradients(plain, pictures), right)
    with blocked(other):
        assert distance(gradients(other, pictures), right) <= 10 * expected + 1e-5
    for (name, mine), theirs in zip(other.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4), name
    plain.eval()
    other.load_state_dict(plain.state_dict())
    other.eval()
    with torch.no_grad(), blocked(other):
        assert torch.allclose(other(pictures), plain(pictures), rtol=1e-3, atol=1e-4)


def test_afterwards_the_network_computes_as_before() -> None:
    network = initial_network("resnet18", 2, RANDOM_WEIGHTS).eval()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(pictures)
        with pytest.raises(KeyError), blocked(network):
            raise KeyError
        assert torch.equal(network(pictures), before)


def test_bfloat16_and_gpus_use_channels_last() -> None:
    assert not is_blocked(CPU, Precision.BF16)
    assert not is_blocked(torch.device("cuda"), Precision.FP32)
