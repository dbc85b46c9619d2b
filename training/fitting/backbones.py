"""Backbones: the networks that the thesis compares, and their initial weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from db.errors import PneumoscreenError
from training.recipe import BACKBONES
from worker.runtime.torch import build_network
from worker.torchvision_pair import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable


class InitialWeightsMissing(PneumoscreenError):
    """The initial ImageNet weights are missing. Put one of the named files into the named folder, name
    another folder with --weights or PNEUMOSCREEN_WEIGHTS, or use --random-weights.
    """  # noqa: D205  (it is the message)

    code = "initial-weights-missing"


class InitialWeightsUnfit(PneumoscreenError):
    """The initial weights do not fit the backbone. They must have torchvision's key layout, and a file from
    torchvision must have the digest that is in its name.
    """  # noqa: D205  (it is the message)

    code = "initial-weights-unfit"


class BackboneUnknown(PneumoscreenError):
    """There is no such backbone. Choose from resnet18, resnet34, resnet50 and alexnet."""

    code = "backbone-unknown"


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """The weights that a network starts from: a file, or None for random weights."""

    file: Path | None

    @property
    def digest(self) -> str | None:
        """SHA-256 of the file, hexadecimal."""
        if self.file is None:
            return None
        with self.file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


RANDOM_WEIGHTS = InitialWeights(None)


def check_backbone(backbone: str) -> None:
    """Raise BackboneUnknown if the thesis does not have this backbone."""
    if backbone not in BACKBONES:
        raise BackboneUnknown(backbone)


def torchvision_file(backbone: str) -> str:
    """Return the name under which torchvision downloads a backbone's ImageNet V1 weights."""
    import_torchvision()
    from torchvision.models import get_model_weights

    return str(get_model_weights(backbone)["IMAGENET1K_V1"].url).rsplit("/", 1)[1]


def torchvision_cache() -> Path:
    """Return the folder where torchvision keeps its downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_initial_weights(backbone: str, folder: Path | None) -> InitialWeights:
    """Return a backbone's ImageNet V1 weights from a folder or, failing that, from torchvision's cache.

    Nothing is downloaded. Raises BackboneUnknown, InitialWeightsMissing.
    """
    check_backbone(backbone)
    names = (f"{backbone}-imagenet.safetensors", torchvision_file(backbone))
    for where in [folder, torchvision_cache()] if folder else [torchvision_cache()]:
        for name in names:
            if (where / name).is_file():
                return InitialWeights(where / name)
    raise InitialWeightsMissing(f"{' or '.join(names)} in {folder or torchvision_cache()}")


def initial_network(backbone: str, classes: int, initial: InitialWeights) -> nn.Module:
    """Return fastai's network for a backbone: the body from ImageNet weights, the head random.

    The weights' classifier is not used. Raises InitialWeightsUnfit.
    """
    network = build_network(backbone, classes)
    if initial.file is None:
        return network
    from torchvision import models

    architecture: Callable[[], nn.Module] = getattr(models, backbone)
    whole = architecture()
    try:
        whole.load_state_dict(_read(initial.file), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise InitialWeightsUnfit(backbone) from error
    _copy_body(whole, network)
    return network


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Return weights in single precision. Raises InitialWeightsUnfit."""
    if file.suffix == ".safetensors":
        state = load_file(file)
    else:
        # torchvision publishes in torch's own format, with the first digits of the digest in the file's name.
        # `weights_only` builds tensors and no other objects.
        digest = InitialWeights(file).digest or ""
        if not digest.startswith(file.stem.rsplit("-", 1)[1]):
            raise InitialWeightsUnfit(file.name)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds of errors for a file of another format
            raise InitialWeightsUnfit(file.name) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _copy_body(whole: nn.Module, network: nn.Module) -> None:
    """Copy a torchvision model's convolutions into the body that fastai cut from the same architecture."""
    body = network.get_submodule("0")
    source = [module for module in whole.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    target = [module for module in body.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad():
        for before, after in zip(source, target, strict=True):
            after.load_state_dict(before.state_dict())
