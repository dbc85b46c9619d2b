"""The order in which a training's activations lie in memory."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from worker.runtime.protocol import Precision


def is_blocked(device: torch.device, precision: Precision) -> bool:
    """Tell whether a training uses oneDNN's own layout, blocks of channels, instead of channels-last.

    In single precision on an x86 processor a step takes about a tenth less time so (deploy/BENCHMARKS.md).
    """
    return (
        device.type == "cpu"
        and precision is Precision.FP32
        and platform.machine() in {"x86_64", "AMD64"}
        and torch.backends.mkldnn.is_available()
    )


@contextmanager
def blocked(network: nn.Module) -> Iterator[None]:
    """Let the body of fastai's network compute in oneDNN's own layout; its head gets a plain tensor.

    Convolutions, batch norm, rectifiers and pooling are then oneDNN's, and nothing is reordered between them.
    The weights stay as they are.
    """
    body = network.get_submodule("0")
    handles = [body.register_forward_pre_hook(_block), body.register_forward_hook(_unblock)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    # fastai's subclasses of Tensor have no such layout.
    return inputs[0].as_subclass(torch.Tensor).to_mkldnn()


def _unblock(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
    return output.to_dense()
