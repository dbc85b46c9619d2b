"""Nightly schedules: windows, and settings that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.settings import SettingsInvalid
from scheduler.nightly.schedule import NightlySettings
from tests.scheduler.nightly.nights import MADRID, moment


def test_windows_end_in_the_morning() -> None:
    late = MADRID.model_copy(update={"cron": "0 22 * * *"})
    assert late.window_end(moment("2026-05-01T22:00")) == moment("2026-05-02T07:00")
    assert MADRID.window_end(moment("2026-10-25T02:30")) == moment("2026-10-25T07:00")
    assert MADRID.cohort_name(moment("2026-05-01T22:00")) == "ward-2026-05-01"


@pytest.mark.parametrize(
    "wrong",
    [
        'cron = "61 * * * *"',
        'cron = "0 0 30 2 *"',
        'time_zone = "Mars/Base"',
        'cohort = "{name}"',
        'cohort = "{date}\\u001b[31m"',
        "priority = 3000000000",
        "x = 1",
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused_by_name(home: Path, wrong: str) -> None:
    (home / "pneumoscreen.toml").write_text(f'[[nightly]]\nname = "ward"\nsource = "/x"\n{wrong}\n')
    with pytest.raises(SettingsInvalid, match="PNEUMOSCREEN_NIGHTLY"):
        NightlySettings.read()
