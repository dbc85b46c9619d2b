"""The device that torch computes on."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """Return the first CUDA device, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forbid_tf32() -> None:
    """Let GPUs compute single precision as such, in the whole process.

    By default, convolutions round their inputs to 10 bits of mantissa (TF32). Single precision defines the
    probabilities, so it must be the same on every device.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def gpus() -> list[str]:
    """Return each GPU that this process may use, as `NVIDIA H100 80GB HBM3 (79 GiB)`."""
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in found]


def native_bf16(device: torch.device) -> bool:
    """Tell whether a device computes bfloat16 natively. Emulated bfloat16 is slower than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
