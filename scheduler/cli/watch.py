"""The progress of a cohort, shown until the cohort is finished."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from db.engine import Database
from db.queries.progress import Progress, progress
from db.tables import Cohort
from db.text import counted
from db.trust.comparison import Comparison, compare_cohort
from scheduler.cli.progress_line import Part, ProgressLine

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two reads of the job table: the first and the longest pause. So the end of a short run is
#: noticed at once, and that of a long one within half a second.
_FIRST_POLL_SECONDS, _POLL_SECONDS = 0.1, 0.5
#: The longer it takes, the longer is the pause: this part of the time so far.
_POLL_SHARE = 0.01
#: Seconds over which the rate is counted. All images of a batch end at once: over a short time it would jump.
_RATE_SECONDS = 60.0


class _Rate:
    """Images per second over the last minute."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def of(self, ended: int) -> float:
        """Note how many images have ended now, and return the rate; 0 until it is known."""
        now = time.monotonic()
        if not self._counts or ended != self._counts[-1][1]:
            self._counts.append((now, ended))
        while len(self._counts) > 2 and self._counts[0][0] < now - _RATE_SECONDS:
            self._counts.popleft()
        (first, before), (_, last) = self._counts[0], self._counts[-1]
        return (last - before) / (now - first) if last > before else 0.0


def watch(
    database: Database,
    cohort_id: int,
    console: Console,
    *,
    check: Callable[[], None] = lambda: None,
    waits_for: str = "waiting for a worker ...",
) -> Progress:
    """Show counts, images/s and time left until the cohort is finished; return its last progress.

    If an ingest of the cohort broke off, wait until all images that it holds have ended.
    `check` is called twice a second. It raises an error if waiting has become pointless.
    `waits_for` is shown until the first of the images is screened.
    """
    with database.read() as session:
        name = session.get_one(Cohort, cohort_id).name
    rate, start, checked = _Rate(), time.monotonic(), 0.0
    compared, trust = 0, None
    with ProgressLine(console, stays=True) as line:
        while True:
            with database.read() as session:
                now = progress(session, [name])[0]
                if now.done > compared:
                    compared, trust = now.done, compare_cohort(session, cohort_id)
            parts = parts_of(now, rate.of(now.ended), waits_for, trust)
            line.show(parts, done=now.ended / (now.total or 1))
            if now.stands_still:
                return now
            passed = time.monotonic() - start
            if passed >= checked + _POLL_SECONDS:
                check()
                checked = passed
            time.sleep(min(max(_FIRST_POLL_SECONDS, passed * _POLL_SHARE), _POLL_SECONDS))


def parts_of(now: Progress, rate: float, waits_for: str, trust: Comparison | None = None) -> list[Part]:
    """Return the progress of a cohort as the parts of a line; failures and waiting stay the longest."""
    parts = [Part(f"{now.ended}/{counted(now.total, 'image')}")]
    if rate:
        parts.append(Part(f"{rate:.1f} images/s", rank=3))
    if rate and now.ended < now.total:
        parts.append(Part(f"{timedelta(seconds=round((now.total - now.ended) / rate))} left", rank=4))
    if now.done:
        parts.append(Part(f"{now.done} done", rank=6))
    if now.skipped:
        parts.append(Part(f"{now.skipped} skipped", rank=5))
    if now.failed:
        parts.append(Part(f"{now.failed} failed", rank=1, style="bold red"))
    if now.waits_for:
        parts.append(Part(f"waits: {now.waits_for}", rank=2, style="bold red"))
    elif not now.ended and not now.running and now.total:
        parts.append(Part(waits_for, rank=1))
    if trust is not None and trust.distrusted:
        parts.append(Part("unlike the training hospital", rank=2, style="bold red"))
    if now.ingest_broke_off:
        parts.append(Part("ingest broke off", rank=2, style="bold red"))
    return parts
