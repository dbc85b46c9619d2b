"""Augmentation that breaks shortcuts: features of one hospital's files that separate classes without a lung.

A classifier on 16x16 thumbnails separates the training data nearly as well as a network does. It uses
framing, brightness, sharpness and the margins of the film. Each function here makes one of these useless.
All take and return a float32 batch (N, 3, H, W) in [0, 1] and use torch's global generator.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

#: Degrees to either side.
ROTATION = 15.0
#: The limits of a picture's scale, and the largest change of its aspect ratio. Films are squeezed into a
#: square, so their width and height show in the proportions of the chest.
SCALE = (0.8, 1.35)
ASPECT = 1.25
SHEAR = 0.1
#: A share of half the side.
SHIFT = 0.15


def geometry(batch: torch.Tensor) -> torch.Tensor:
    """Rotate, stretch, shear, shift and mirror each picture. New area is black or a reflection."""
    count, device = len(batch), batch.device
    angle = _uniform(count, -ROTATION, ROTATION).deg2rad()
    scale = _log_uniform(count, *SCALE)
    aspect = _log_uniform(count, ASPECT**-0.5, ASPECT**0.5)
    shear = _uniform(count, -SHEAR, SHEAR)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    across, along = mirror / (scale * aspect), aspect / scale
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * across, (shear * cos - sin) * along, _uniform(count, -SHIFT, SHIFT)], dim=1),
            torch.stack([sin * across, (shear * sin + cos) * along, _uniform(count, -SHIFT, SHIFT)], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta.to(device), list(batch.shape), align_corners=False)
    padding = "zeros" if torch.rand(()) < 0.5 else "reflection"
    return functional.grid_sample(batch, grid, padding_mode=padding, align_corners=False)


def intensity(batch: torch.Tensor) -> torch.Tensor:
    """Change exposure, contrast and gamma, and equalise the histogram of some pictures."""
    count = len(batch)
    batch = batch.clamp(0, 1) ** _per_picture(_log_uniform(count, 0.5, 2.0), batch)
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    contrast = _per_picture(_log_uniform(count, 0.65, 1.5), batch)
    exposure = _per_picture(_uniform(count, -0.12, 0.12), batch)
    batch = ((batch - mean) * contrast + mean + exposure).clamp(0, 1)
    for index in _chosen(count, 0.15):
        batch[index] = _equalised(batch[index])
    return batch


def resolution(batch: torch.Tensor) -> torch.Tensor:
    """Blur half of the pictures by scaling them down, to a quarter of each side at most, or sharpen them."""
    side = batch.shape[-1]
    for index in _chosen(len(batch), 0.5):
        small = int(side * _log_uniform(1, 0.25, 1.0))
        reduced = functional.interpolate(batch[index : index + 1], size=(small, small), mode="area")
        blurred = functional.interpolate(reduced, size=(side, side), mode="bilinear", align_corners=False)[0]
        if torch.rand(()) < 0.25:
            batch[index] = (batch[index] + 0.7 * (batch[index] - blurred)).clamp(0, 1)
        else:
            batch[index] = blurred
    return batch


def compression(batch: torch.Tensor) -> torch.Tensor:
    """Compress some of the pictures as JPEG, at any quality, and add noise to some."""
    for index in _chosen(len(batch), 0.4):
        quality = int(_uniform(1, 15, 90))
        batch[index] = _recompressed(batch[index], quality)
    for index in _chosen(len(batch), 0.3):
        batch[index] += torch.randn_like(batch[index, :1]) * float(_uniform(1, 0.01, 0.06))
    return batch.clamp(0, 1)


def borders(batch: torch.Tensor) -> torch.Tensor:
    """Put a frame around some of the pictures, and plates like side markers and labels on some."""
    height, width = batch.shape[-2:]
    for index in _chosen(len(batch), 0.3):
        shade = float(torch.rand(())) if torch.rand(()) < 0.3 else 0.0
        top, bottom, left, right = (int(part) for part in _uniform(4, 0, 0.13) * width)
        framed = torch.full_like(batch[index], shade)
        framed[:, top : height - bottom, left : width - right] = batch[
            index, :, top : height - bottom, left : width - right
        ]
        batch[index] = framed
    for index in _chosen(len(batch), 0.5):
        for _ in range(int(torch.randint(1, 4, ()))):
            high, wide = (int(part) for part in _log_uniform(2, 0.05, 0.35) * width)
            top = int(torch.randint(0, height - high, ()))
            left = int(torch.randint(0, width - wide, ()))
            batch[index, :, top : top + high, left : left + wide] = float(torch.rand(()))
    return batch


#: In the order in which they happen to a radiograph: the film, its digitisation, its file.
STEPS = (geometry, intensity, borders, resolution, compression)


#: The share of pictures that each step is applied to. If it is applied to all, the network learns less about
#: the lung in a few epochs, not more (docs/training.md).
SHARE = 0.5


def break_shortcuts(batch: torch.Tensor) -> torch.Tensor:
    """Apply each step to a random half of a batch. Each step has a half of its own."""
    batch = batch.clone()
    for step in STEPS:
        chosen = (torch.rand(len(batch)) < SHARE).to(batch.device)
        if chosen.any():
            batch[chosen] = step(batch[chosen])
    return batch


def _uniform(count: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(count) * (high - low) + low


def _log_uniform(count: int, low: float, high: float) -> torch.Tensor:
    bounds = torch.tensor([low, high]).log()
    return (torch.rand(count) * (bounds[1] - bounds[0]) + bounds[0]).exp()


def _chosen(count: int, share: float) -> list[int]:
    return torch.nonzero(torch.rand(count) < share).flatten().tolist()


def _per_picture(values: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return values.to(batch.device).view(-1, 1, 1, 1)


def _equalised(picture: torch.Tensor) -> torch.Tensor:
    """Return a picture whose grey values are equally common."""
    levels = (picture.mean(dim=0) * 255).round().long()
    counts = torch.bincount(levels.flatten(), minlength=256).cumsum(0)
    rank = counts.float() / counts[-1]
    return rank[(picture * 255).round().long()]


def _recompressed(picture: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(array / 255).permute(2, 0, 1).to(picture.device)
