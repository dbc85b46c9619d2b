"""The spans that a bench's processes note, and how much of a time they cover."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

#: The function that computes a pass, in each runtime.
PASS = ("OpenVinoRuntime.probabilities", "TorchRuntime.probabilities")


@dataclass(frozen=True, slots=True)
class Span:
    """One call of a function, in seconds by `time.time`."""

    process: str
    what: str
    begin: float
    end: float


def note_spans(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process that is started from now on note its spans in a file."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("BENCH_SPANS", str(file))


def read_spans(file: Path) -> list[Span]:
    """Return all spans, in the order of their beginnings."""
    spans = [Span(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(spans, key=lambda span: span.begin)


def covered(spans: Iterable[Span], begin: float, end: float) -> float:
    """Return the share of a time in which at least one of the spans runs; spans are in order."""
    seconds, reached = 0.0, begin
    for span in spans:
        first, last = max(span.begin, reached), min(span.end, end)
        if last > first:
            seconds += last - first
            reached = last
    return seconds / (end - begin)
