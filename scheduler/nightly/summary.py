"""The morning summary of a night: its figures as a page, as text and as JSON."""

from __future__ import annotations

import re
import shlex
import socket
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from db.jobs.problems import every_problem
from db.nights.figures import BANDS, NightFigures, Outcome
from db.tables import NightlyRun
from db.text import counted
from scheduler.disclaimer import DISCLAIMER
from scheduler.local_time import local_time
from scheduler.nightly.comparison import compared, screened
from scheduler.nightly.drift import CHANGED, Drift, drifts_of
from scheduler.nightly.schedule import Nightly

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
    #: How far tonight's images differ from those of the nights before, by figure.
    drifts: list[Drift]
    #: The drift of each of these figures, as `drift_json` has it, in the nights before and tonight.
    drift_trend: dict[str, list[dict[str, Any] | None]]
    #: The newest digest of the audit log. With it, `audit --verify --against` detects later changes.
    audit_head: str | None

    def as_text(self) -> str:
        """Return the summary as plain text."""
        rows = [("", *COUNTS), *((what, *map(str, counts)) for what, counts in self.rows)]
        one = self.figures
        lines = [
            f"{self.title}: {self.headline}",
            "",
            *((self.warning, "") if self.warning else ()),
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
            *(("", f"{self.drift_title}:") if self.drifts else ()),
            *(f"  {drift.name} {drift.found}" for drift in self.drifts),
            "",
            *((f"audit head: {self.audit_head}",) if self.audit_head else ()),
            DISCLAIMER,
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values, with what they are of and the head of the audit log."""
        cohort_id, cohort = self.cohort or (None, None)
        figures = self.figures.as_json()
        # Manufacturers are free text of headers, which leaves the job table only in what a user exports.
        del figures["profile"]
        return figures | {
            "drift": drift_json(self.drifts),
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
        done = "done" if one.new or one.earlier.done else "nothing new"
        return f"{done}; unlike the training hospital" if self.is_distrusted else done

    @property
    def warning(self) -> str:
        """What it means that the night's pictures are unlike those of the training hospital, if they are."""
        return "" if self.figures.comparison is None else self.figures.comparison.as_text()

    @property
    def is_distrusted(self) -> bool:
        """Whether the night's numbers are not to be trusted."""
        return self.figures.comparison is not None and self.figures.comparison.distrusted

    @property
    def drift_title(self) -> str:
        """What a drift is."""
        return f"Drift (population stability index; above {CHANGED} is a change), compared with {self.before}"

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
    drifts = drifts_of(figures.as_json(), before)
    nights = [*(night.get("drift", {}) for night in reversed(before)), drift_json(drifts)]
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
        drifts=drifts,
        drift_trend={one.figure: [night.get(one.figure) for night in nights] for one in drifts},
        audit_head=audit_head,
    )


def drift_json(drifts: list[Drift]) -> dict[str, Any]:
    """Return the drift of each figure as plain JSON values."""
    return {drift.figure: {"psi": drift.psi, "changed": drift.changed} for drift in drifts}


def page(summary: Summary) -> str:
    """Return the summary as one HTML page that loads nothing else."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _marked
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        s=summary,
        f=summary.figures,
        counts=COUNTS,
        changed=CHANGED,
        disclaimer=DISCLAIMER,
    )


def _marked(text: str) -> Markup:
    """Return a text whose words in backticks are code, as HTML."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text)))  # noqa: S704  (it is escaped)
