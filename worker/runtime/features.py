"""The features of a picture: what a layer of the network finds in it, as one row of numbers.

They are the mean of each channel over the upper and over the lower half of the picture, after the third of a
ResNet's four layers, or after the last convolution of AlexNet. The layers before it react to how a film was
digitised, and those after it find only what the network was trained for: they miss pictures that are upside
down or negative (docs/architecture.md). The halves tell a picture from the same one upside down.
"""

from __future__ import annotations

#: The layer that is looked at in each backbone, by PyTorch's name.
FEATURE_LAYER = {"resnet18": "0.6.1", "resnet34": "0.6.5", "resnet50": "0.6.5", "alexnet": "0.0.11"}

#: The channels of that layer.
_CHANNELS = {"resnet18": 256, "resnet34": 256, "resnet50": 1024, "alexnet": 256}


def feature_count(backbone: str) -> int:
    """Return the number of features that a picture has in a backbone."""
    return 2 * _CHANNELS[backbone]


def half_of(rows: int) -> int:
    """Return how many of a layer's rows each half has. A middle row is in both."""
    return (rows + 1) // 2
