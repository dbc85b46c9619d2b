"""What this machine can do for a worker, as one JSON document: `python -m worker.selfcheck`.

`doctor` runs it as a process of its own, so that neither torch's seconds nor a crash of it are doctor's.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def examine() -> dict[str, Any]:
    """Return versions of torch and torchvision, the GPUs and the DICOM decoders; what fails says how."""
    return {"torch": _torch(), "decoders": _decoders()}


def _torch() -> dict[str, Any]:
    try:
        import torch

        from worker.torchvision_pair import import_torchvision

        import_torchvision()
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": str(error).splitlines()[0]}
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _decoders() -> dict[str, bool]:
    from worker.decoding.codecs import available_decoders

    return available_decoders()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(examine()) + "\n")
