"""What every step of a run gets: the device, how much to do, and where its files are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu.findings import Findings

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much a run does."""

    #: Pictures that are compared between devices and precisions.
    compared: int
    #: Different files of each kind, which the other files are copies of.
    jpegs: int
    others: int
    #: Files that the whole stack screens, and those that it screens while workers die.
    screened: int
    endangered: int
    #: Pictures of one forward pass in the whole stack.
    forward: int
    #: Pictures in a pass that are timed, and the seconds that each is timed for.
    passes: tuple[int, ...]
    timed_seconds: float
    #: Files that each core decodes.
    decoded: int
    #: Images that are trained with, of 224 x 224, and the backbones.
    trained: int
    backbones: tuple[str, ...]


#: For a GPU: the number of images of the thesis.
FULL = Sizes(
    compared=1_024, jpegs=320, others=48, screened=20_000, endangered=3_000, forward=128,
    passes=(16, 32, 64, 128, 256, 512), timed_seconds=0.5, decoded=60, trained=5_232,
    backbones=("resnet50", "resnet18", "resnet34", "alexnet"),
)  # fmt: skip

#: For a machine without one: enough to run every line.
REHEARSAL = Sizes(
    compared=8, jpegs=4, others=1, screened=60, endangered=60, forward=4,
    passes=(2,), timed_seconds=0.05, decoded=3, trained=100, backbones=("alexnet",),
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What a step gets."""

    findings: Findings
    sizes: Sizes
    #: `cuda`, or `cpu` in a rehearsal.
    device: str
    #: A folder of this run that is removed after it.
    scratch: Path

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @property
    def pool(self) -> Path:
        """The folder of the different files, one folder below for each kind."""
        return self.scratch / "files"

    @cached_property
    def pictures(self) -> np.ndarray:
        """Different pictures, uint8 (N, 224, 224, 3)."""
        import numpy as np

        return np.asarray(np.load(self.scratch / "pictures.npy"))

    def home(self, name: str) -> Path:
        """Make a data directory, and use it in this process and in those that it starts."""
        folder = self.scratch / f"home-{name}"
        folder.mkdir(mode=0o700)
        os.environ["PNEUMOSCREEN_HOME"] = str(folder)
        return folder


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
