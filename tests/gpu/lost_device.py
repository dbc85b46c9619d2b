"""A screening worker whose device fails in its first forward pass, as a Celery app."""

from __future__ import annotations

from typing import Any

import torch

from tests.gpu.exactness import fail_on_gpu
from worker.runtime.torch.runtime import TorchRuntime
from worker.tasks import app

__all__ = ["app"]

_really = TorchRuntime._forward


def _forward(self: TorchRuntime, *arguments: Any) -> Any:
    if self.device.type == "cuda":
        fail_on_gpu()
        return _really(self, *arguments)
    # In a rehearsal: what the runtime sees of such an error.
    self.device = torch.device("cuda")
    raise RuntimeError("CUDA error: device-side assert triggered")


TorchRuntime._forward = _forward  # type: ignore[method-assign]
