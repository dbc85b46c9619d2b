"""The fixture `figures`, whose content is printed and written at the end of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.figures import Figures

_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Give the figures of this run: a bench adds to them. They are written to the folder `BENCH_OUT`."""
    return request.config.stash[_FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[_FIGURES]
    if not found.figures:
        return
    folder = Path(os.environ.get("BENCH_OUT", "build/bench"))
    found.write(folder)
    terminalreporter.section("figures")
    terminalreporter.write_line(found.table())
    terminalreporter.write_line(f"\nalso in {folder}/figures.json")
