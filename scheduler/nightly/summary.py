"""The morning summary: figures, page and text, written to a folder and sent if delivery is set up."""

from __future__ import annotations

import json
import logging
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from db.atomic import write_whole
from db.audit.chain import head
from db.engine import Database
from db.jobs.problems import every_problem
from db.nights.figures import BANDS, NightFigures, night_figures
from db.nights.runs import claim_summary, conclude_nights, find_night, history, note_summary, now
from db.settings import home
from db.tables import NightlyRun
from scheduler.disclaimer import DISCLAIMER
from scheduler.nightly.delivery import SendSettings, send
from scheduler.nightly.schedule import Nightly, NightlySettings

log = logging.getLogger(__name__)

#: Earlier nights that a night is compared with.
NIGHTS = 30

#: Seconds after which another worker retries a failed delivery, and seconds until no more retries are made.
_LEASE_SECONDS = 300.0
_PATIENCE = 86_400.0

_TEMPLATE = Path(__file__).with_name("summary.html.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The summary of one night."""

    run_id: int
    name: str
    #: Local time of the slot and of the end.
    slot: str
    ended: str
    state: str
    problem: str | None
    figures: NightFigures
    #: Comparisons with earlier nights: name of the figure, tonight's value, median of those nights.
    compared: list[tuple[str, str, str]]
    #: Images screened in the nights before, oldest first, and tonight.
    trend: list[int]
    #: The newest digest of the audit log. With it, `audit --verify --against` detects later changes.
    audit_head: str | None

    def as_text(self) -> str:
        """Return the summary as plain text."""
        one = self.figures
        lines = [
            f"Nightly run {self.run_id}, {self.name}, {self.slot}: {self.headline}",
            "",
            f"new {one.new}, done {one.done}, skipped {sum(one.skipped.values())}, "
            f"failed {sum(one.failed.values())}, left for the next night {one.left}",
            *([self.of_earlier_nights] if self.of_earlier_nights else []),
            f"positive {one.positive}",
            *(f"  P {low:.1f} to {low + 0.1:.1f}: {count}" for low, count in self.bands if count),
            *(f"{state} {count}: {code}, {meaning}" for state, count, code, meaning in self.reasons),
            *(f"{what} {tonight} (median of the last {len(self.trend) - 1} nights {before})"
              for what, tonight, before in self.compared),
            "",
            *((f"audit head: {self.audit_head}",) if self.audit_head else ()),
            DISCLAIMER,
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values, with the head of the audit log."""
        return self.figures.as_json() | {"audit_head": self.audit_head}

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.problem is not None:
            return f"the source could not be walked ({self.problem})"
        one = self.figures
        if self.state == "held":
            left = one.left + one.earlier.left
            return f"the window ended with {left} images left, which wait for the next night"
        return "done" if one.new or one.earlier.done else "nothing new"

    @property
    def of_earlier_nights(self) -> str:
        """The outcome of images that earlier nights had left; empty if they had left none."""
        one = self.figures.earlier
        skipped, failed = sum(one.skipped.values()), sum(one.failed.values())
        if not one.done + skipped + failed + one.left:
            return ""
        return f"of earlier nights: done {one.done}, skipped {skipped}, failed {failed}, left {one.left}"

    @property
    def bands(self) -> list[tuple[float, int]]:
        """Lower edge and count of each tenth, the most probable first."""
        return [(band / BANDS, self.figures.bands[band]) for band in reversed(range(BANDS))]

    @property
    def reasons(self) -> list[tuple[str, int, str, str]]:
        """State, count, code and meaning of images that were not screened."""
        known, one = every_problem(), self.figures
        return [
            (state, count, code, known[code].meaning() if code in known else "")
            for state, problems in (
                ("failed", Counter(one.failed) + Counter(one.earlier.failed)),
                ("skipped", Counter(one.skipped) + Counter(one.earlier.skipped)),
            )
            for code, count in problems.most_common()
        ]


def make_summary(
    run: NightlyRun, figures: NightFigures, before: list[dict[str, Any]], audit_head: str | None = None
) -> Summary:
    """Return a night's summary, compared with the nights `before`, the latest of them first."""
    zone = Nightly.model_validate(run.plan).zone
    return Summary(
        run_id=run.id,
        name=run.name,
        slot=f"{datetime.fromtimestamp(run.slot, zone):%Y-%m-%d %H:%M %Z}",
        ended=f"{datetime.fromtimestamp(run.finished_at or run.slot, zone):%Y-%m-%d %H:%M %Z}",
        state=run.state,
        problem=run.problem,
        figures=figures,
        compared=_compared(figures.as_json(), before),
        trend=[_screened(one) for one in (*reversed(before), figures.as_json())],
        audit_head=audit_head,
    )


def _screened(night: dict[str, Any]) -> int:
    """Return how many images got a prediction in a night, those of earlier nights included."""
    done: int = night["done"]
    # A summary without `earlier` is of an older version, which counted these images in `done`.
    return done + int(night.get("earlier", {}).get("done", 0))


def _compared(tonight: dict[str, Any], before: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, Callable[[dict[str, Any]], float | None], str]] = [
        ("new", lambda one: one["new"], ".0f"),
        ("screened", _screened, ".0f"),
        ("failed", lambda one: sum(one["failed"].values()), ".0f"),
        ("share positive", lambda one: one["positive"] / _screened(one) if _screened(one) else None, ".1%"),
        ("images/s", lambda one: one["images_per_second"], ".1f"),
    ]
    found = []
    for what, value, form in rows:
        theirs = [number for one in before if (number := value(one)) is not None]
        ours = value(tonight)
        if theirs and ours is not None:
            found.append((what, format(ours, form), format(statistics.median(theirs), form)))
    return found


def page(summary: Summary) -> str:
    """Return the summary as one HTML page that loads nothing else."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(s=summary, f=summary.figures, disclaimer=DISCLAIMER)


def conclude(database: Database) -> list[int]:
    """End nightly runs that are finished or past their window; return those that need a summary."""
    with database.write() as session:
        return conclude_nights(session)


def summarise(database: Database, settings: NightlySettings, run_id: int) -> None:
    """Write a night's summary, send it, and record both; a failed delivery is retried for a day."""
    with database.write() as session:
        if not claim_summary(session, run_id, lease_seconds=_LEASE_SECONDS):
            return
    with database.read() as session:
        run = find_night(session, run_id)
        figures = night_figures(session, run)
        before = [
            one.summary
            for one in history(session, run.name, limit=NIGHTS + 1)
            if one.summary is not None and one.slot < run.slot
        ][:NIGHTS]
        summary = make_summary(run, figures, before, head(session))
        # An earlier attempt may have sent it by one channel: that one does not send it again.
        already = (run.summary or {}).get("sent", [])
        late = (run.finished_at or run.slot) + _PATIENCE
    _write(Path(settings.summaries_folder or home() / "nightly"), summary)
    sent = send(
        SendSettings.read(),
        f"pneumoscreen, {summary.name}, {summary.slot}: {summary.headline}",
        summary.as_text(),
        page(summary),
        summary.as_json() | {"run": run_id, "name": summary.name},
        already=already,
    )
    noted = figures.as_json() | {"sent": [what for what, took in sent.items() if took]}
    with database.write() as session:
        note_summary(session, run_id, noted, ended=all(sent.values()) or now(session) > late)


def _write(folder: Path, summary: Summary) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = f"{summary.name}-{summary.run_id:06d}"
    content = {"html": page(summary), "txt": summary.as_text(), "json": json.dumps(summary.as_json())}
    for suffix, text in content.items():
        with write_whole(folder / f"{stem}.{suffix}") as file:
            file.write(text.encode())
