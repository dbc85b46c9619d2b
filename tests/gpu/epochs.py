"""Training on the device through the command `retrain`, and plain fastai on the same files."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from PIL import Image

from deploy.models import default_model
from tests.gpu.bench import Bench, cores
from tests.gpu.pictures import small_picture

_ROOT = Path(__file__).parent.parent.parent
#: The epochs of the thesis, after one with the head alone.
_EPOCHS = 20


def retraining(bench: Bench) -> None:
    """Train each backbone for one epoch after the frozen one, by the recipe of the thesis."""
    home, data = bench.home("training"), bench.scratch / "data"
    for label in ("NORMAL", "PNEUMONIA"):
        (data / label).mkdir(parents=True)
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pool.map(partial(_write, data), range(bench.sizes.trained), chunksize=32)
    total = 0.0
    for number, backbone in enumerate(bench.sizes.backbones, start=1):
        subprocess.run(
            [sys.executable, "-m", "scheduler", "retrain", str(data), "--recipe", "thesis",
             "--backbones", backbone, "--epochs", "1", "--random-weights"],
            cwd=_ROOT, check=True,
        )  # fmt: skip
        report = json.loads((home / "training" / f"run-{number}" / "report.json").read_text())
        (found,) = report["backbones"]
        # The first epoch, which trains the head alone, also warms the GPU up.
        seconds = found["epochs"][-1]["seconds"]
        total += seconds
        bench.findings.measure(f"{backbone}, an epoch", seconds, "s", f"{bench.sizes.trained} images")
    bench.findings.measure(
        f"{_EPOCHS} epochs of all of them", _EPOCHS * total / 60, "minutes", "from one epoch"
    )


def _write(data: Path, seed: int) -> None:
    """Write a picture: the classes differ by their contrast, so that something can be learned."""
    label = "PNEUMONIA" if seed % 4 else "NORMAL"
    pixels = small_picture(seed)
    Image.fromarray(255 - pixels if label == "NORMAL" else pixels).save(
        data / label / f"{seed}.jpg", quality=90
    )


def plain_fastai(bench: Bench) -> None:
    """Time fastai's own `get_preds` on JPEG files, as a user calls it."""
    from db.models.store import read_card
    from tests.bench.test_throughput import fastai_learner, fastai_run

    # fastai takes a label, which is not used here, from the folder's name.
    folder = bench.scratch / "plain" / "NORMAL"
    folder.mkdir(parents=True)
    jpegs = itertools.cycle(sorted((bench.pool / "jpeg").iterdir()))
    files = [folder / f"{number}.jpg" for number in range(bench.sizes.decoded * cores())]
    for file, jpeg in zip(files, jpegs, strict=False):
        os.link(jpeg, file)
    learner, loaders = fastai_learner(default_model(), files)
    # Only `fit` would move it.
    learner.model.to(bench.device)  # type: ignore[attr-defined]
    fastai_run(learner, loaders, files[: 2 * cores()], read_card(default_model()))
    rate, _ = fastai_run(learner, loaders, files, read_card(default_model()))
    bench.findings.measure("get_preds(test_dl(files)), JPEG", rate, "images/s", f"{len(files)} images")
