"""What benches report: figures and shares of time, which `make bench` prints, writes as JSON and draws."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

#: Libraries whose version changes the figures.
_LIBRARIES = ("torch", "fastai", "openvino", "sqlalchemy", "celery", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, and the value that is wanted, if there is one."""

    subject: str
    what: str
    value: float
    unit: str
    goal: float | None = None


@dataclass(slots=True)
class Figures:
    """All figures of a run of the benches."""

    figures: list[Figure] = field(default_factory=list)
    #: Seconds of each part of a whole, by subject.
    shares: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, subject: str, what: str, value: float, unit: str, *, goal: float | None = None) -> None:
        """Keep a figure. A test asserts its goal by itself."""
        self.figures.append(Figure(subject, what, float(value), unit, goal))

    def add_shares(self, subject: str, seconds: Mapping[str, float]) -> None:
        """Keep where the time of a subject goes: seconds of each part, drawn one after the other."""
        self.shares[subject] = dict(seconds)

    def table(self) -> str:
        """Return all figures as a table in Markdown."""
        rows = [["", "", "", "goal"]]
        subject = ""
        for one in self.figures:
            goal = "" if one.goal is None else f"{one.goal:g}"
            rows.append(
                [
                    one.subject if one.subject != subject else "",
                    one.what,
                    f"{_short(one.value)} {one.unit}",
                    goal,
                ]
            )
            subject = one.subject
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(
            [f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", "", *lines]
        )

    def write(self, folder: Path) -> None:
        """Write `figures.json`, and `shares.svg` if there are shares of time."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "load": os.getloadavg(),
                "python": platform.python_version(),
                **{name: version(name) for name in _LIBRARIES},
            },
            "figures": [asdict(one) for one in self.figures],
            "shares": self.shares,
        }
        (folder / "figures.json").write_text(json.dumps(content, indent=1) + "\n")
        if self.shares:
            draw_shares(self.shares, folder / "shares.svg")


def draw_shares(shares: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Draw a bar for each subject, divided into its parts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(shares), figsize=(9, 0.6 + 1.3 * len(shares)), layout="constrained", squeeze=False
    )
    for axes, (subject, parts) in zip(rows[:, 0], shares.items(), strict=True):
        left = 0.0
        for part, seconds in parts.items():
            axes.barh(0, seconds, left=left, label=f"{part} {_short(seconds)} s")
            left += seconds
        axes.set(title=subject, yticks=[], xlim=(0, left))
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file)
    pyplot.close(figure)


def _short(value: float) -> str:
    """Return three digits of a value, as 0.0123, 1.23, 123 or 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    """Return the name of the processor, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
