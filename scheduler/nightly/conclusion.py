"""The conclusion of a night: its summary is written to a folder, and sent if delivery is set up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from db.atomic import write_whole
from db.audit.chain import head
from db.engine import Database
from db.nights.figures import night_figures
from db.nights.runs import claim_summary, conclude_nights, find_night, history, note_summary, now
from db.settings import home
from db.tables import Cohort
from scheduler.nightly.delivery import SendSettings, send
from scheduler.nightly.schedule import NightlySettings
from scheduler.nightly.summary import Summary, drift_json, make_summary, page

#: Earlier nights that a night is compared with.
NIGHTS = 30

#: Seconds after which another worker retries a failed delivery, and seconds until no more retries are made.
_LEASE_SECONDS = 300.0
_RETRY_SECONDS = 86_400.0


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
        drift = drift_json(summary.drifts)
        noted = figures.as_json() | {"drift": drift, "sent": sent, "delivery": delivery}
        ended = all(attempt.sent for attempt in attempts.values()) or moment > late
        note_summary(session, run_id, noted, ended=ended)


def _write(folder: Path, summary: Summary) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = f"{summary.name}-{summary.run_id:06d}"
    content = {"html": page(summary), "txt": summary.as_text(), "json": json.dumps(summary.as_json())}
    for suffix, text in content.items():
        with write_whole(folder / f"{stem}.{suffix}") as file:
            file.write(text.encode())
