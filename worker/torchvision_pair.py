"""The import of torchvision beside a torch that it was not built for.

The package index has only CUDA builds of torchvision. Beside a CPU build of torch, their compiled operators
do not load. The import then fails with `operator torchvision::nms does not exist`, because it describes
operators for object detection. Nothing here uses them, so it is enough to declare them first.
"""

from __future__ import annotations

import functools
import importlib

import torch


@functools.cache
def import_torchvision() -> torch.library.Library | None:
    """Import torchvision, and declare its operators if its own do not load.

    Returns the library that holds the declarations, or None if torchvision loads its own. The cache keeps the
    library alive: the declarations vanish with it. Call this before anything imports torchvision or fastai.
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
