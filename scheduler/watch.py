"""The progress bar of a cohort, shown until the cohort is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from db.engine import Database
from db.queries.progress import Progress as CohortProgress
from db.queries.progress import progress
from db.tables import Cohort

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two reads of the job table.
_POLL_SECONDS = 0.5


class _Rate(ProgressColumn):
    """Images per second, over rich's window of recent updates."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before there is one."""
        return Text(f"{task.speed:.1f} images/s" if task.speed else "-- images/s")


class _Counts(ProgressColumn):
    """Done, skipped and failed images."""

    def render(self, task: Task) -> Text:
        """Return the counts; failures and what the cohort waits for are in bold red."""
        failed = task.fields["failed"]
        text = Text(f"{task.fields['done']} done, {task.fields['skipped']} skipped, ")
        text.append(f"{failed} failed", style="bold red" if failed else "")
        waits_for = task.fields["waits_for"]
        if waits_for:
            text.append(f", waits: {waits_for}", style="bold red")
        if task.fields["broke_off"]:
            text.append(", ingest broke off", style="bold red")
        return text


def watch(
    database: Database, cohort_id: int, console: Console, *, check: Callable[[], None] = lambda: None
) -> CohortProgress:
    """Show a bar with images/s, counts and time left until the cohort is finished; return its last progress.

    If an ingest of the cohort broke off, wait until all images that it holds have ended.
    `check` is called after each read. It raises an error if waiting has become pointless.
    """
    with database.read() as session:
        name = session.get_one(Cohort, cohort_id).name
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), _Rate(), _Counts(), TimeRemainingColumn(),
        console=console,
        # All images of a batch end at once: over a short window the rate would jump.
        speed_estimate_period=60.0,
    )  # fmt: skip
    with bar:
        task = bar.add_task(name, total=None, done=0, skipped=0, failed=0, waits_for=None, broke_off=False)
        while True:
            with database.read() as session:
                now = progress(session, [name])[0]
            bar.update(
                task,
                total=now.total,
                completed=now.ended,
                done=now.done,
                skipped=now.skipped,
                failed=now.failed,
                waits_for=now.waits_for,
                broke_off=now.ingest_broke_off,
            )
            if now.stands_still:
                return now
            check()
            time.sleep(_POLL_SECONDS)
