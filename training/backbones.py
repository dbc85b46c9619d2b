"""The four backbones of the thesis and their initial weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from db.errors import PneumoscreenError
from worker.learner import build_network
from worker.torchvision_pair import import_torchvision

BACKBONES = ("resnet18", "resnet34", "resnet50", "alexnet")

#: ImageNet's statistics of RGB in [0, 1], which all of torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InitialWeightsMissing(PneumoscreenError):
    """The initial ImageNet weights are not there. Put the named file into the folder given with --weights."""

    code = "initial-weights-missing"


class InitialWeightsUnfit(PneumoscreenError):
    """The initial weights do not fit the backbone. They must have torchvision's key layout."""

    code = "initial-weights-unfit"


class BackboneUnknown(PneumoscreenError):
    """There is no such backbone. Choose resnet18, resnet34, resnet50 or alexnet."""

    code = "backbone-unknown"


def check_backbone(backbone: str) -> None:
    """Raise BackboneUnknown for a backbone that is not one of the thesis'."""
    if backbone not in BACKBONES:
        raise BackboneUnknown


def initial_weights_file(folder: Path, backbone: str) -> Path:
    """Return the file of a backbone's ImageNet weights in a folder, or raise InitialWeightsMissing."""
    file = folder / f"{backbone}-imagenet.safetensors"
    if not file.is_file():
        raise InitialWeightsMissing(file.name)
    return file


def pretrained_network(backbone: str, classes: int, weights: Path) -> nn.Module:
    """Return fastai's network for a backbone whose body starts from ImageNet weights.

    `weights` is a safetensors file in torchvision's key layout; its classifier is not used.
    Raises InitialWeightsUnfit.
    """
    import_torchvision()
    from torchvision import models

    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(weights).items()
    }
    whole: nn.Module = getattr(models, backbone)()
    try:
        whole.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InitialWeightsUnfit(backbone) from error
    network = build_network(backbone, classes)
    _copy_body(whole, network)
    return network


def _copy_body(whole: nn.Module, network: nn.Module) -> None:
    """Copy a torchvision model's convolutions into the body that fastai cut from its like."""
    body = network.get_submodule("0")
    source = [module for module in whole.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    target = [module for module in body.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad():
        for before, after in zip(source, target, strict=True):
            after.load_state_dict(before.state_dict())
