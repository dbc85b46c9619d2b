"""Whether a GPU gives the numbers and labels of the CPU, and what happens if it is full or fails."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy.models import default_model
from tests.gpu.bench import Bench
from worker.runtime.classes import label_of, positive_probability
from worker.runtime.loading import load_model
from worker.runtime.passes import Passes, outputs_of, outputs_that_fit
from worker.runtime.precision import LoadedModel
from worker.runtime.protocol import DeviceUnusable, Output, PassTooLarge, Precision

if TYPE_CHECKING:
    from db.models.card import ModelCard
    from worker.runtime.torch.runtime import TorchRuntime

#: The largest difference of a probability in single precision that is allowed between devices.
_TOLERANCE = 1e-4


def load(device: str) -> TorchRuntime:
    """Load the shipped model on a device."""
    return load_model(default_model(), device=device)  # type: ignore[return-value]


def labels(card: ModelCard, rows: np.ndarray) -> list[str]:
    """Return the labels of rows of class probabilities."""
    found = positive_probability(card, rows)
    return [label_of(card, row, float(one)) for row, one in zip(rows, found, strict=True)]


def single_precision(bench: Bench) -> None:
    """Compare fp32 on the device with fp32 on the CPU, and a picture with itself in other passes."""
    findings, size = bench.findings, bench.sizes.forward
    runtime, pictures = load(bench.device), bench.pictures
    rows = outputs_of(runtime, pictures, Precision.FP32, size).probabilities
    # Other pictures stand beside each one, and each stands in another place.
    turned = outputs_of(runtime, pictures[::-1].copy(), Precision.FP32, size).probabilities[::-1]
    findings.check(
        "a picture has the same last bits in every pass of one size",
        np.array_equal(rows, turned),
        f"largest difference {np.abs(rows - turned).max():.1e}",
    )
    reference = outputs_of(load("cpu"), pictures, Precision.FP32, size).probabilities
    difference = float(np.abs(rows - reference).max())
    findings.measure("largest difference of fp32 from the CPU", difference, "probability")
    findings.check(f"fp32 differs from the CPU by less than {_TOLERANCE}", difference < _TOLERANCE)
    _check_labels(bench, runtime.card, "fp32 gives the labels of the CPU", rows, reference)
    positive = positive_probability(runtime.card, reference)
    unclear = float(((positive > 0.02) & (positive < 0.98)).mean())
    findings.measure("pictures between 0.02 and 0.98", 100 * unclear, "%", f"of {len(pictures)}")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        torch.set_float32_matmul_precision("high")
        loose = outputs_of(runtime, pictures, Precision.FP32, size).probabilities
    findings.measure(
        "largest difference of TF32 from the CPU", float(np.abs(loose - reference).max()), "probability"
    )


def adaptive(bench: Bench) -> None:
    """Compare the labels of adaptive precision with those of fp32."""
    findings, size = bench.findings, bench.sizes.forward
    runtime, pictures = load(bench.device), bench.pictures
    card = runtime.card
    exact = outputs_of(runtime, pictures, Precision.FP32, size).probabilities
    if bench.is_gpu:
        findings.check("the device computes bfloat16 natively", Precision.BF16 in runtime.precisions)
    passes = Passes[int](LoadedModel(runtime), adaptive=True, size=size)
    found = dict([*passes.add(enumerate(pictures)), *passes.finish()])
    rows = [found[number] for number in range(len(pictures))]
    values = np.stack([row.values for row in rows if row is not None])
    again = sum(row is not None and row.precision is Precision.FP32 for row in rows)
    findings.measure("computed again in fp32", 100 * again / len(rows), "%")
    findings.measure("largest difference that is kept", float(np.abs(values - exact).max()), "probability")
    _check_labels(bench, card, "adaptive precision gives the labels of fp32", values, exact)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        # A CPU that emulates these formats takes ten times as long.
        some = slice(None if bench.is_gpu else 2)
        moved = _moved(runtime, pictures[some], exact[some], dtype, size)
        findings.measure(f"{name} alone moves log odds by at most", moved, "log odds")


def _moved(
    runtime: TorchRuntime, pictures: np.ndarray, exact: np.ndarray, dtype: torch.dtype, size: int
) -> float:
    """Return by how much a number format moves the log odds of a picture at most."""
    from worker.runtime.torch.normalisation import normalise

    card, found = runtime.card, []
    with torch.inference_mode(), torch.autocast(runtime.device.type, dtype=dtype):
        for start in range(0, len(pictures), size):
            tensor = torch.from_numpy(pictures[start : start + size]).to(runtime.device).permute(0, 3, 1, 2)
            logits = runtime._network(normalise(tensor, card.mean, card.std)).float()
            found.append((logits / card.temperature).softmax(dim=1).cpu().numpy())
    return float(np.abs(_log_odds(card, np.concatenate(found)) - _log_odds(card, exact)).max())


def _log_odds(card: ModelCard, rows: np.ndarray) -> np.ndarray:
    bounded = np.clip(positive_probability(card, rows).astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _check_labels(bench: Bench, card: ModelCard, promise: str, rows: np.ndarray, exact: np.ndarray) -> None:
    pairs = list(zip(labels(card, rows), labels(card, exact), strict=True))
    other = sum(one != expected for one, expected in pairs)
    bench.findings.check(promise, other == 0, f"{other} of {len(pairs)} differ")


def memory(bench: Bench) -> None:
    """Compute passes that do not fit into the memory: they are halved until they do."""
    runtime, pictures = load(bench.device), bench.pictures
    size = min(4 * bench.sizes.forward, len(pictures))
    exact = outputs_of(runtime, pictures, Precision.FP32, size).probabilities
    fits, too_large = size // 4, 0
    really = runtime.forward

    def counted(*arguments: object) -> Output:
        nonlocal too_large
        try:
            return really(*arguments)  # type: ignore[arg-type]
        except PassTooLarge:
            too_large += 1
            raise

    _limit_memory(runtime, pictures, fits)
    runtime.forward = counted  # type: ignore[method-assign, assignment]
    outputs = outputs_that_fit(runtime, pictures, Precision.FP32, size)
    bench.findings.check("passes that do not fit are refused", too_large > 0, f"{too_large} passes")
    complete = all(output is not None for output in outputs)
    bench.findings.check("every picture is computed in smaller passes", complete)
    if complete:
        values = np.stack([output.probabilities for output in outputs if output is not None])
        difference = float(np.abs(values - exact).max())
        bench.findings.check("smaller passes give the same numbers", difference < 1e-5, f"{difference:.1e}")


def _limit_memory(runtime: TorchRuntime, pictures: np.ndarray, fits: int) -> None:
    """Leave this process the memory of a pass of `fits` pictures, and some more."""
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        runtime.forward(pictures[:fits], Precision.FP32)
        allowed = 1.3 * torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(allowed / whole, 1.0))
        return
    network = runtime._network

    def limited(inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > fits:
            raise torch.OutOfMemoryError("in a rehearsal")
        return network(inputs)  # type: ignore[no-any-return]

    # Not through the module's own attributes, which take networks alone.
    object.__setattr__(runtime, "_network", limited)


def lost(bench: Bench) -> None:
    """Cause an error of the GPU: from then on this process cannot use it, and says so."""
    runtime = load(bench.device)
    if not bench.is_gpu:
        bench.findings.note("an error of the GPU", "not caused: there is none")
        return
    with suppress(RuntimeError):
        fail_on_gpu()
    try:
        runtime.forward(bench.pictures[:4], Precision.FP32)
    except DeviceUnusable as error:
        bench.findings.check("an error of the GPU ends the use of it", error.lost, str(error)[:100])
    else:
        bench.findings.check("an error of the GPU ends the use of it", False, "it went on")


def fail_on_gpu() -> None:
    """Read beyond the end of a tensor: the GPU's own assertion fails, and the process loses the GPU."""
    beyond = torch.tensor([10**6], device="cuda")
    torch.zeros(1, device="cuda")[beyond]
