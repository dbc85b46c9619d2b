"""Lets torchvision be imported beside a torch that it was not built for.

The package index has CUDA builds of torchvision only. Beside a CPU build of torch its compiled
operators do not load, and its import dies with `operator torchvision::nms does not exist` while it
describes operators for object detection, which nothing here uses. Declaring them first is enough.
"""

from __future__ import annotations

import functools
import importlib

import torch


@functools.cache
def import_torchvision() -> torch.library.Library | None:
    """Import torchvision, declaring its missing operators where its own are not loaded.

    Returns the library that holds the declarations (the cache keeps it alive: they vanish with it),
    or None where torchvision brought its own. Call this before anything imports torchvision or fastai.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    importlib.import_module("torchvision")
    return library
