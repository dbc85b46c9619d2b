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
from worker.runtime.torch.runtime import build_network
from worker.torchvision_pair import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class InitialWeightsMissing(PneumoscreenError):
    """The initial ImageNet weights are missing. Download the named files into the named folder, name another
    folder with --weights or PNEUMOSCREEN_WEIGHTS, or use --random-weights.
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
    #: The id of the model whose whole network the file holds; None if it holds torchvision's weights.
    model: str | None = None

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


@dataclass(frozen=True, slots=True)
class Published:
    """A file of ImageNet V1 weights as torchvision publishes it."""

    url: str
    #: Bytes.
    size: int
    #: SHA-256, hexadecimal; the file's name holds the first eight digits.
    digest: str

    @property
    def name(self) -> str:
        """The name under which torchvision downloads the file."""
        return self.url.rsplit("/", 1)[1]

    def __str__(self) -> str:
        return f"{self.url}, {self.size / 1e6:.0f} MB, SHA-256 {self.digest}"


#: The weights that the thesis starts from, by backbone. `docs/training.md` has the same table.
PUBLISHED = {
    "resnet18": Published(
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        46_830_571,
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
    "resnet34": Published(
        "https://download.pytorch.org/models/resnet34-b627a593.pth",
        87_319_819,
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    "resnet50": Published(
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        102_530_333,
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    "alexnet": Published(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
}


def torchvision_cache() -> Path:
    """Return the folder where torchvision keeps its downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_initial_weights(backbone: str, folder: Path | None) -> InitialWeights:
    """Return a backbone's ImageNet V1 weights from a folder or, failing that, from torchvision's cache.

    Nothing is downloaded. Raises BackboneUnknown, InitialWeightsMissing.
    """
    return find_all_initial_weights([backbone], folder)[backbone]


def find_all_initial_weights(
    backbones: Collection[str], folder: Path | None, random: Collection[str] = ()
) -> dict[str, InitialWeights]:
    """Return the weights of several backbones; those in `random` start from random weights.

    Raises BackboneUnknown, and one InitialWeightsMissing that names all files that are missing.
    """
    for backbone in backbones:
        check_backbone(backbone)
    files = {backbone: None if backbone in random else _find(backbone, folder) for backbone in backbones}
    missing = [PUBLISHED[one] for one, file in files.items() if file is None and one not in random]
    if missing:
        places = "; ".join(str(published) for published in missing)
        raise InitialWeightsMissing(f"into {folder or torchvision_cache()}: {places}")
    return {backbone: InitialWeights(file) for backbone, file in files.items()}


def _find(backbone: str, folder: Path | None) -> Path | None:
    names = (f"{backbone}-imagenet.safetensors", PUBLISHED[backbone].name)
    for where in [folder, torchvision_cache()] if folder else [torchvision_cache()]:
        for name in names:
            if (where / name).is_file():
                return where / name
    return None


def initial_network(backbone: str, classes: int, initial: InitialWeights) -> nn.Module:
    """Return fastai's network for a backbone: a model's, or the body from ImageNet weights, the head random.

    ImageNet's classifier is not used. Raises InitialWeightsUnfit.
    """
    network = build_network(backbone, classes)
    if initial.file is None:
        return network
    if initial.model is not None:
        try:
            network.load_state_dict(_read(initial.file), strict=True)
        except (RuntimeError, SafetensorError) as error:
            raise InitialWeightsUnfit(initial.model) from error
        return network
    import_torchvision()
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
