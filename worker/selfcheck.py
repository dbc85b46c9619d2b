"""The check of what this machine offers a worker: `python -m worker.selfcheck` prints one JSON document.

`doctor` runs it in a process of its own, so that a slow import or a crash of torch does not stop `doctor`.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def examine() -> dict[str, Any]:
    """Return the runtime, the versions of torch and torchvision, the GPUs and the DICOM decoders.

    If torch or torchvision cannot be imported, the error replaces their versions and the GPUs.
    """
    return {"runtime": _runtime(), "torch": _torch(), "decoders": _decoders()}


def _runtime() -> dict[str, str]:
    """Return the name of the runtime that screens on this machine, and the version of its library."""
    from db.settings import SettingsInvalid
    from worker.runtime.loading import chosen
    from worker.settings import WorkerSettings

    try:
        name = chosen(WorkerSettings.read().runtime)
    except SettingsInvalid:  # `doctor` says which
        name = chosen("auto")
    try:
        return {"name": name, "version": version(name)}
    except PackageNotFoundError:
        return {"name": name}


def _torch() -> dict[str, Any]:
    try:
        import torch

        from worker.runtime.torch.device import gpus
        from worker.torchvision_pair import import_torchvision

        import_torchvision()
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": str(error).splitlines()[0]}
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "gpus": gpus(),
    }


def _decoders() -> dict[str, bool]:
    from worker.decoding.codecs import available_decoders

    return available_decoders()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(examine()) + "\n")
