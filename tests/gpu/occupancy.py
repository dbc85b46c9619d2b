"""The occupancy of the GPU and of the cores over a run, as an SVG picture."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Self

#: Seconds between two samples.
_INTERVAL = 0.5
_QUERY = [
    "nvidia-smi",
    "--query-gpu=utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
]

_WIDTH, _HEIGHT, _MARGIN = 1000, 260, 40
_COLOURS = {"GPU": "#0b7a3b", "GPU memory": "#b35c00", "cores": "#3355bb"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The occupancy at one moment; shares from 0 to 1."""

    at: float
    shares: dict[str, float]


@dataclass
class Occupancy:
    """Samples of a run, taken in a thread while the block lasts."""

    samples: list[Sample] = field(default_factory=list)
    #: When each step began.
    steps: list[tuple[float, str]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _start: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def begin(self, step: str) -> None:
        """Note that a step begins now."""
        self.steps.append((self._now(), step))

    def mean(self, name: str) -> float | None:
        """Return the mean share of `GPU`, `GPU memory` or `cores` since the last step began."""
        since = self.steps[-1][0]
        shares = [one.shares[name] for one in self.samples if one.at >= since and name in one.shares]
        return sum(shares) / len(shares) if shares else None

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _watch(self) -> None:
        before = _processor_time()
        while not self._ended.wait(_INTERVAL):
            now = _processor_time()
            idle, total = now[0] - before[0], now[1] - before[1]
            before = now
            shares = {"cores": 1 - idle / total} if total else {}
            self.samples.append(Sample(self._now(), shares | _of_gpu()))

    def picture(self) -> str:
        """Return the samples as SVG: a line for each share, and a vertical line where a step begins."""
        end = max((one.at for one in self.samples), default=1.0)

        def x(at: float) -> float:
            return _MARGIN + (_WIDTH - 2 * _MARGIN) * at / end

        def y(share: float) -> float:
            return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * share

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT + 110}" '
            'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        ]
        for share in (0.0, 0.5, 1.0):
            parts.append(
                f'<path d="M{_MARGIN},{y(share):.0f}H{_WIDTH - _MARGIN}" stroke="#ddd"/>'
                f'<text x="4" y="{y(share) + 4:.0f}">{share:.0%}</text>'
            )
        for at, step in self.steps:
            parts.append(
                f'<path d="M{x(at):.0f},{y(1):.0f}V{y(0):.0f}" stroke="#999" stroke-dasharray="3"/>'
                f'<text transform="translate({x(at):.0f},{_HEIGHT - _MARGIN + 14}) rotate(40)">'
                f"{escape(step)}, {at:.0f} s</text>"
            )
        for number, (name, colour) in enumerate(_COLOURS.items()):
            line = " ".join(
                f"{x(one.at):.1f},{y(one.shares[name]):.1f}" for one in self.samples if name in one.shares
            )
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
                f'<text x="{_MARGIN + 120 * number}" y="24" fill="{colour}">{name}</text>'
            )
        return "\n".join([*parts, "</svg>\n"])


def _processor_time() -> tuple[int, int]:
    """Return how long the cores were idle, and the time of all cores, since the machine was started."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return numbers[3] + numbers[4], sum(numbers)


def _of_gpu() -> dict[str, float]:
    """Return the shares of the first GPU, none if there is no GPU or its driver does not answer."""
    if shutil.which(_QUERY[0]) is None:
        return {}
    with suppress(OSError, ValueError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=5)
        used, memory, whole = (float(text) for text in done.stdout.splitlines()[0].split(","))
        return {"GPU": used / 100, "GPU memory": memory / whole}
    return {}
