"""The morning summary: figures, page and text, written to a folder and sent if delivery is set up."""

from __future__ import annotations

import json
import logging
import re
import shlex
import socket
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from db.atomic import write_whole
from db.audit.chain import head
from db.engine import Database
from db.jobs.problems import every_problem
from db.nights.figures import BANDS, NightFigures, Outcome, night_figures
from db.nights.runs import claim_summary, conclude_nights, find_night, history, note_summary, now
from db.settings import home
from db.tables import Cohort, NightlyRun
from db.text import counted
from scheduler.disclaimer import DISCLAIMER
from scheduler.local_time import local_time
from scheduler.nightly.comparison import compared, screened
from scheduler.nightly.delivery import SendSettings, send
from scheduler.nightly.schedule import Nightly, NightlySettings

log = logging.getLogger(__name__)

#: Earlier nights that a night is compared with.
NIGHTS = 30

#: Seconds after which another worker retries a failed delivery, and seconds until no more retries are made.
_LEASE_SECONDS = 300.0
_RETRY_SECONDS = 86_400.0

_TEMPLATE = Path(__file__).with_name("summary.html.jinja")


#: The columns of a summary's counts; the images are the sum of the others.
COUNTS = ("images", "screened", "skipped", "failed", "left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The summary of one night."""

    run_id: int
    name: str
    #: Name of the machine that wrote it.
    host: str
    #: Id and name of the run's own cohort; None if it found nothing new, or the cohort is gone.
    cohort: tuple[int, str] | None
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
        rows = [("", *COUNTS), *((what, *map(str, counts)) for what, counts in self.rows)]
        one = self.figures
        lines = [
            f"{self.title}: {self.headline}",
            "",
            *(f"{what}: {fact}" for what, fact in self.facts),
            "",
            *("".join((row[0].ljust(24), *(cell.rjust(9) for cell in row[1:]))) for row in rows),
            "",
            f"Positive: {one.positive} of {self.screened} screened",
            *(f"  P {low:.1f} to {low + 0.1:.1f}: {count}" for low, count in self.bands if count),
            *(("Most probable first:",) if one.most_probable else ()),
            *(f"  image {image}  P {probability:.3f}" for image, probability in one.most_probable),
            *self.hints,
            *(("", "Not screened:") if self.reasons else ()),
            *(f"  {state} {count}: {code}. {meaning}" for state, count, code, meaning in self.reasons),
            *(("", f"Compared with {self.before}:") if self.compared else ()),
            *(f"  {what} {tonight}, median before {before}" for what, tonight, before in self.compared),
            "",
            *((f"audit head: {self.audit_head}",) if self.audit_head else ()),
            DISCLAIMER,
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values, with what they are of and the head of the audit log."""
        cohort_id, cohort = self.cohort or (None, None)
        return self.figures.as_json() | {
            "run": self.run_id,
            "name": self.name,
            "host": self.host,
            "cohort": cohort,
            "cohort_id": cohort_id,
            "audit_head": self.audit_head,
        }

    @property
    def title(self) -> str:
        """What it is the summary of."""
        return f"{self.name} on {self.host}, {self.slot}"

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.problem is not None:
            return f"the source could not be read ({self.problem})"
        one = self.figures
        if self.state == "held":
            left = one.left + one.earlier.left
            return f"the window ended; {counted(left, 'image')} left, for the next night"
        return "done" if one.new or one.earlier.done else "nothing new"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the figures are of: cohort, models, run and times."""
        models = ", ".join(
            f"{name} ({counted(count, 'image')})" for name, count in self.figures.models.items()
        )
        return [
            ("Cohort", "none: nothing was new" if self.cohort is None else self.cohort[1]),
            ("Model", models or "none: nothing was screened"),
            ("Nightly run", f"{self.run_id}, due {self.slot}, ended {self.ended}"),
        ]

    @property
    def rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """Counts of tonight's images and, if there are any, of those that earlier nights had left."""
        own, earlier = _counts(self.figures), _counts(self.figures.earlier)
        if not any(earlier):
            return [("new tonight", own)]
        together = tuple(map(sum, zip(own, earlier, strict=True)))
        return [("new tonight", own), ("left by earlier nights", earlier), ("together", together)]

    @property
    def screened(self) -> int:
        """Images that got a prediction, whichever night they came in."""
        return self.figures.done + self.figures.earlier.done

    @property
    def hints(self) -> list[str]:
        """Commands that take the row ids and the cohort."""
        one = self.figures
        hints = []
        if one.most_probable:
            if more := one.positive - len(one.most_probable):
                hints.append(f"{more} more are in the results.")
            hints.append(f"`pneumoscreen show image {one.most_probable[0][0]}` prints all about an image.")
        if self.cohort is not None:
            hints.append(f"`pneumoscreen results {shlex.quote(self.cohort[1])} --out FILE` writes every row.")
        return hints

    @property
    def before(self) -> str:
        """The nights that it is compared with."""
        nights = len(self.trend) - 1
        return "the night before" if nights == 1 else f"the {nights} nights before"

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


def _counts(one: NightFigures | Outcome) -> tuple[int, ...]:
    """Return a row of `COUNTS`: the first is the sum of the others."""
    ends = (one.done, sum(one.skipped.values()), sum(one.failed.values()), one.left)
    return sum(ends), *ends


def make_summary(
    run: NightlyRun,
    figures: NightFigures,
    before: list[dict[str, Any]],
    *,
    cohort: tuple[int, str] | None = None,
    audit_head: str | None = None,
) -> Summary:
    """Return a night's summary, compared with the nights `before`, the latest of them first."""
    zone = Nightly.model_validate(run.plan).zone
    return Summary(
        run_id=run.id,
        name=run.name,
        host=socket.gethostname(),
        cohort=cohort,
        slot=local_time(run.slot, zone),
        ended=local_time(run.finished_at or run.slot, zone),
        state=run.state,
        problem=run.problem,
        figures=figures,
        compared=compared(figures.as_json(), before),
        trend=[screened(one) for one in (*reversed(before), figures.as_json())],
        audit_head=audit_head,
    )


def page(summary: Summary) -> str:
    """Return the summary as one HTML page that loads nothing else."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _marked
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(s=summary, f=summary.figures, counts=COUNTS, disclaimer=DISCLAIMER)


def _marked(text: str) -> Markup:
    """Return a text whose words in backticks are code, as HTML."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text)))  # noqa: S704  (it is escaped)


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
        own = None if run.cohort_id is None else session.get_one(Cohort, run.cohort_id)
        cohort = None if own is None else (own.id, own.name)
        summary = make_summary(run, figures, before, cohort=cohort, audit_head=head(session))
        earlier_attempts = run.summary or {}
        late = (run.finished_at or run.slot) + _RETRY_SECONDS
    _write(Path(settings.summaries_folder or home() / "nightly"), summary)
    # An earlier attempt may have sent it by one channel: that one does not send it again.
    already = earlier_attempts.get("sent", [])
    attempts = send(
        SendSettings.read(),
        f"pneumoscreen, {summary.title}: {summary.headline}",
        summary.as_text(),
        page(summary),
        summary.as_json(),
        already=already,
    )
    sent = [*already, *(channel for channel, attempt in attempts.items() if attempt.sent)]
    with database.write() as session:
        moment = now(session)
        delivery = earlier_attempts.get("delivery", {}) | {
            channel: asdict(attempt) | {"at": moment} for channel, attempt in attempts.items()
        }
        noted = figures.as_json() | {"sent": sent, "delivery": delivery}
        ended = all(attempt.sent for attempt in attempts.values()) or moment > late
        note_summary(session, run_id, noted, ended=ended)


def _write(folder: Path, summary: Summary) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = f"{summary.name}-{summary.run_id:06d}"
    content = {"html": page(summary), "txt": summary.as_text(), "json": json.dumps(summary.as_json())}
    for suffix, text in content.items():
        with write_whole(folder / f"{stem}.{suffix}") as file:
            file.write(text.encode())
