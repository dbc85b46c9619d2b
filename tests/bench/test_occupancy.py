"""The share of a run in which a forward pass computes, over time."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.models.registry import ensure_champion
from db.tables import Batch, Cohort
from db.upkeep.migrate import upgrade
from deploy.models import default_model
from tests.bench.figures import Figures
from tests.bench.radiographs import radiographs, repeat
from tests.bench.spans.reading import PASS, Span, covered, note_spans, read_spans
from tests.bench.test_throughput import screen_run, warm_stack

#: How often the files are screened.
TIMES = int(os.environ.get("OCCUPANCY_TIMES", "3"))
#: The wanted share.
GOAL = 0.9
#: The folder of the picture, if one is wanted.
PICTURES = os.environ.get("BENCH_PICTURES")

pytestmark = pytest.mark.bench


def first_to_last(database: Database, name: str) -> tuple[float, float]:
    """Return when the first batch of a cohort was cut and when the last one ended."""
    with database.read() as session:
        query = select(func.min(Batch.created_at), func.max(Batch.finished_at)).join(Cohort)
        first, last = session.execute(query.where(Cohort.name == name)).one()
        return float(first), float(last)


def test_a_forward_pass_computes_nearly_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.delenv("PNEUMOSCREEN_FORWARD_IMAGES")
    files = radiographs(tmp_path / "drawn")
    repeat(files[:16], tmp_path / "warm", 1)
    count = repeat(files, tmp_path / "films", TIMES)
    database = Database()
    upgrade(database)
    ensure_champion(database, default_model())
    note_spans(tmp_path / "spans", monkeypatch)
    with warm_stack(database, tmp_path / "warm", "warm"):
        screen_run(database, tmp_path / "films", "films")
    begin, end = first_to_last(database, "films")
    passes = [one for one in read_spans(tmp_path / "spans") if one.what in PASS]
    share = covered(passes, begin, end)
    figures.add("occupancy", "a forward pass computes, share of the run", share, "", goal=GOAL)
    figures.add("occupancy", "images", count / (end - begin), "images/s")
    if PICTURES:
        draw(passes, begin, end, Path(PICTURES) / "occupancy.svg")
    assert share >= GOAL


def draw(passes: list[Span], begin: float, end: float, file: Path) -> None:
    """Draw the share in each second of the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(begin, end, max(2, round(end - begin) + 1))
    shares = [covered(passes, first, last) for first, last in pairwise(edges)]
    figure, axes = pyplot.subplots(figsize=(8.5, 2.6), layout="constrained")
    axes.stairs(100 * np.array(shares), edges - begin, fill=True)
    axes.axhline(100 * GOAL, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        xlim=(0, end - begin),
        ylim=(0, 100),
        xlabel="seconds from the first batch to the last",
        ylabel="% of each second",
        title=f"A forward pass computes: {100 * covered(passes, begin, end):.0f}% of the run",
    )
    figure.savefig(file)
    pyplot.close(figure)
