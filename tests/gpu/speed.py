"""How fast a machine computes forward passes and decodes files, each alone."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.gpu.bench import Bench, cores
from tests.gpu.exactness import load
from worker.decoding.pool import DecoderPool
from worker.decoding.reader import read_bytes
from worker.runtime.protocol import Precision
from worker.settings import WorkerSettings

#: Name, number format, whether TF32 is allowed, layout.
_WAYS = (
    ("fp32, channels last", torch.float32, False, torch.channels_last),
    ("tf32, channels last", torch.float32, True, torch.channels_last),
    ("bf16, contiguous", torch.bfloat16, False, torch.contiguous_format),
    ("bf16, channels last", torch.bfloat16, False, torch.channels_last),
    ("fp16, channels last", torch.float16, False, torch.channels_last),
)


def forward(bench: Bench) -> None:
    """Time forward passes: first as the runtime computes them, then bare, with the input on the device."""
    runtime = load(bench.device)
    precisions = [one for one in Precision if one in runtime.precisions]
    for precision, size in itertools.product(precisions, bench.sizes.passes):
        pictures = np.random.default_rng(0).integers(0, 256, (size, 224, 224, 3), dtype=np.uint8)
        rate = _rate(bench, size, lambda p=pictures, q=precision: runtime.forward(p, q))  # type: ignore[misc]
        bench.findings.measure(f"runtime, {precision}, pass of {size}", rate, "images/s")
    for (name, dtype, tf32, layout), size in itertools.product(_WAYS, bench.sizes.passes):
        network = runtime._network.to(memory_format=layout)
        inputs = torch.rand((size, 3, 224, 224), device=bench.device).to(memory_format=layout)
        with _computing(bench.device, dtype, tf32):
            rate = _rate(bench, size, lambda n=network, i=inputs: n(i))  # type: ignore[misc]
        bench.findings.measure(f"bare, {name}, pass of {size}", rate, "images/s")
    if bench.is_gpu:
        _graphs(bench, runtime._network.to(memory_format=torch.channels_last))


@contextmanager
def _computing(device: str, dtype: torch.dtype, tf32: bool) -> Iterator[None]:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    autocast = torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32), autocast:
        yield


def _graphs(bench: Bench, network: nn.Module) -> None:
    """Time passes that are replayed as a CUDA graph: the host starts one kernel instead of two hundred.

    The weights are in half precision themselves, so that no kernel converts them.
    """
    for dtype, size in itertools.product((torch.bfloat16, torch.float16), bench.sizes.passes):
        halved = network.to(dtype)
        inputs = torch.rand((size, 3, 224, 224), device="cuda", dtype=dtype).to(
            memory_format=torch.channels_last
        )
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    halved(inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                halved(inputs)
        name = str(dtype).removeprefix("torch.")
        bench.findings.measure(
            f"bare, {name} weights, CUDA graph, pass of {size}", _rate(bench, size, graph.replay), "images/s"
        )


def _rate(bench: Bench, size: int, compute: Callable[[], object]) -> float:
    """Return images per second of a computation of `size` images, after a warm-up."""
    finish = torch.cuda.synchronize if bench.is_gpu else lambda: None
    for _ in range(3 if bench.is_gpu else 1):
        compute()
    finish()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < bench.sizes.timed_seconds:
        for _ in range(4 if bench.is_gpu else 1):
            compute()
            count += size
        finish()
    return count / (time.perf_counter() - start)


def decoding(bench: Bench) -> None:
    """Time the decoding of each kind of file on all cores: bare Pillow, then in our decoding processes."""
    jpegs = sorted((bench.pool / "jpeg").iterdir())
    count = bench.sizes.decoded * cores()
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        for name, decode in (("Pillow", _by_pillow), ("Pillow, scaled by the DCT", _by_draft)):
            files = [file for file, _ in zip(itertools.cycle(jpegs), range(count), strict=False)]
            pool.map(decode, files[: cores()])
            start = time.perf_counter()
            pool.map(decode, files, chunksize=4)
            bench.findings.measure(
                f"JPEG, {name}, a process for each core", count / (time.perf_counter() - start), "images/s"
            )
    with DecoderPool(WorkerSettings.read()) as pool:
        for folder in sorted(bench.pool.iterdir()):
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            # JPEG 2000 takes twenty times as long as JPEG.
            number = count if folder.name == "jpeg" else max(count // 10, 2 * cores())
            _decode(pool, files, cores())
            seconds = _decode(pool, files, number)
            bench.findings.measure(f"{folder.name}, our decoders", number / seconds, "images/s")
    if bench.is_gpu:
        _nvjpeg(bench, jpegs)


def _by_pillow(file: Path) -> None:
    with Image.open(file) as image:
        image.convert("L").resize((224, 224), Image.Resampling.BILINEAR)


def _by_draft(file: Path) -> None:
    with Image.open(file) as image:
        image.draft("L", (448, 448))
        image.convert("L").resize((224, 224), Image.Resampling.BILINEAR)


def _decode(pool: DecoderPool, files: list[Path], count: int) -> float:
    """Decode `count` files and return the seconds."""
    start = time.perf_counter()
    futures = [
        pool.submit(lambda file=file: read_bytes(file)[0])  # type: ignore[misc]
        for file, _ in zip(itertools.cycle(files), range(count), strict=False)
    ]
    for future in futures:
        future.result()
    return time.perf_counter() - start


def _nvjpeg(bench: Bench, files: list[Path]) -> None:
    """Time the GPU's own JPEG decoder, through torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    contents = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in files]
    for size in (16, 64, 256):
        batch = (contents * (1 + size // len(contents)))[:size]
        rate = _rate(bench, size, lambda b=batch: decode_jpeg(b, mode=ImageReadMode.GRAY, device="cuda"))  # type: ignore[misc]
        bench.findings.measure(f"JPEG, nvJPEG through torchvision, {size} at a time", rate, "images/s")
