"""The normalisation of pictures: from uint8 to the numbers that a network takes.

Training and screening both use these functions. The operations and their order are fastai's: its
`IntToFloatTensor` divides by 255, then its `Normalize` subtracts the mean and divides by the standard
deviation. Another order would change the last bit.
"""

from __future__ import annotations

import torch

#: ImageNet's statistics of RGB in [0, 1], which all of torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]


def normalise(pixels: torch.Tensor, mean: Channels, std: Channels) -> torch.Tensor:
    """Return uint8 pictures (N, 3, H, W) as float32 with this mean and standard deviation per channel."""
    return standardise(to_unit_range(pixels), mean, std)


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 pictures (N, 3, H, W) as float32 in [0, 1]."""
    return pixels.float().div_(255.0)


def standardise(pictures: torch.Tensor, mean: Channels, std: Channels) -> torch.Tensor:
    """Return float32 pictures (N, 3, H, W) in [0, 1] less the mean, divided by the standard deviation."""
    shape, device = (1, 3, 1, 1), pictures.device
    return (pictures - torch.tensor(mean, device=device).view(shape)) / torch.tensor(std, device=device).view(
        shape
    )
