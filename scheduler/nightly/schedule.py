"""Nightly schedules, as declared in `pneumoscreen.toml`, and the times at which they are due."""

from __future__ import annotations

import datetime as dt
import string
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from db.errors import PneumoscreenError
from db.jobs.cohorts import PRIORITIES, CohortNameInvalid, check_name
from db.settings import RoomSettings


class NightlyUnknown(PneumoscreenError):
    """There is no nightly schedule of that name. `pneumoscreen nightly list` lists them."""

    code = "nightly-unknown"


class Nightly(BaseModel):
    """One schedule: `[[nightly]]` in `pneumoscreen.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Short and permanent: runs and known files are stored under it.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    #: Path or URL, as for `submit`.
    source: Annotated[str, Field(min_length=1)]
    #: When a run starts: minute, hour, day of the month, month, day of the week.
    cron: str = "0 22 * * *"
    #: Time zone of `cron` and `until`.
    time_zone: str = "UTC"
    #: Time of day after which no more batches are handed out; images that are left wait for the next night.
    until: dt.time | None = None
    #: Name of each night's cohort; {name}, {date} and {time} of the slot are filled in.
    cohort: str = "{name}-{date}"
    #: Higher goes first.
    priority: Annotated[int, Field(ge=PRIORITIES.start, lt=PRIORITIES.stop)] = 0
    #: Id of a model; by default the champion of that night.
    model: str | None = None

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone") from None
        return value

    @field_validator("cron")
    @classmethod
    def _cron_is_read(cls, value: str) -> str:
        try:
            next(CronSim(value, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)))
        except (CronSimError, StopIteration):
            raise ValueError("not a cron expression, or one that is never due") from None
        return value

    @field_validator("cohort")
    @classmethod
    def _cohort_is_filled_in(cls, value: str) -> str:
        fields = {field for _, field, _, _ in string.Formatter().parse(value) if field is not None}
        if not fields <= {"name", "date", "time"} or "date" not in fields:
            raise ValueError("needs {date}, may have {name} and {time}")
        try:
            check_name(value.format(name="n" * 64, date="2024-01-01", time="000000"))
        except CohortNameInvalid:
            raise ValueError("makes names that are not valid for a cohort") from None
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)

    def latest_slot(self, now: float) -> float:
        """Return the last time, at or before `now`, at which the schedule was due.

        As in Debian's cron, a time that daylight saving skips is due at the end of the gap, and a time that
        occurs twice is due once.
        """
        # In reverse, CronSim starts before the time that it is given.
        after = dt.datetime.fromtimestamp(int(now) + 1, self.zone)
        return next(CronSim(self.cron, after, reverse=True)).timestamp()

    def next_slot(self, now: float) -> float:
        """Return the next time after `now` at which the schedule is due."""
        return next(CronSim(self.cron, dt.datetime.fromtimestamp(int(now), self.zone))).timestamp()

    def window_end(self, slot: float) -> float | None:
        """Return the end of the window that starts with a slot, or None if the window has no end."""
        if self.until is None:
            return None
        begin = dt.datetime.fromtimestamp(slot, self.zone)
        end = dt.datetime.combine(begin.date(), self.until, self.zone)
        if end <= begin:
            end = dt.datetime.combine(begin.date() + dt.timedelta(days=1), self.until, self.zone)
        return end.timestamp()

    def cohort_name(self, slot: float) -> str:
        """Return the name of a slot's cohort."""
        local = dt.datetime.fromtimestamp(slot, self.zone)
        return self.cohort.format(name=self.name, date=f"{local:%Y-%m-%d}", time=f"{local:%H%M%S}")

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values that a run stores of the schedule."""
        return self.model_dump(mode="json")


class NightlySettings(RoomSettings):
    """Nightly screening."""

    #: The schedules: `[[nightly]]` tables with `name`, `source`, `cron`, `time_zone`, `until`, `cohort`,
    #: `priority` and `model`.
    nightly: tuple[Nightly, ...] = ()
    #: Seconds between two checks for schedules that are due.
    nightly_seconds: Annotated[float, Field(gt=0)] = 20.0
    #: Seconds after which a source that could not be walked is tried again, until the window ends.
    nightly_retry_seconds: Annotated[float, Field(gt=0)] = 300.0
    #: Folder of the morning summaries. Empty: `nightly` in the data directory.
    summaries_folder: str = ""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({one.name for one in self.nightly}) < len(self.nightly):
            raise ValueError("two nightly schedules have the same name")
        return self

    def find(self, name: str) -> Nightly:
        """Return a schedule by name, or raise NightlyUnknown."""
        for one in self.nightly:
            if one.name == name:
                return one
        raise NightlyUnknown
