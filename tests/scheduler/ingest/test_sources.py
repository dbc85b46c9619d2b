"""A new kind of source in one module: the one that is defined here goes from `submit` to rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.images import NewImage
from db.jobs.problems import CorruptImage, FileVanished
from db.tables import Cohort, Image
from scheduler.ingest import open_source as open_any
from scheduler.ingest.source import Source
from scheduler.ingest.sources import source_modules
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.slots import run_now
from scheduler.submit import submit
from worker.files.opener import Entry
from worker.files.roots import Roots

#: The files of the toy source: their sizes by name.
FILES: dict[str, int] = {}
#: Entries that were inspected.
INSPECTED: list[str] = []


class ToySource(Source):
    """A list of names: some are no images, some are damaged and some are gone."""

    threads = 2
    described = "/toy"

    def entries(self) -> Iterator[Entry]:
        for name, size in FILES.items():
            yield Entry(f"/toy/{name}", size, 5.0)

    def inspect(self, entry: Entry) -> NewImage | None:
        INSPECTED.append(entry.uri)
        if "gone" in entry.uri:
            raise FileVanished
        if "text" in entry.uri:
            return None
        problem = CorruptImage() if "damaged" in entry.uri else None
        return NewImage(
            uri=entry.uri,
            size=entry.size,
            listed_at=entry.modified,
            study_uid="1.2",
            **({"state": problem.state, "problem": problem.code} if problem else {}),
        )


def accepts(where: str) -> bool:
    return where.startswith("toy:")


def open_source(where: str, roots: Roots) -> Source:
    return ToySource()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Put this module into the table of kinds; return the name of a source."""
    monkeypatch.setitem(source_modules(), "toy", __name__)
    FILES.clear()
    FILES.update({"1": 10, "2": 20, "text": 1, "damaged": 30, "gone": 40})
    INSPECTED.clear()
    return "toy:anything"


@pytest.mark.usefixtures("model")
def test_a_new_kind_of_source_goes_from_submit_to_rows(database: Database, toy: str) -> None:
    taken = submit(database, open_any(toy), name="trial")
    assert (taken.found, taken.new, taken.ignored) == (3, 3, 2)
    with database.read() as session:
        images = session.scalars(select(Image).order_by(Image.id)).all()
        assert [(one.uri, one.size, one.listed_at, one.problem) for one in images] == [
            ("/toy/1", 10, 5.0, None),
            ("/toy/2", 20, 5.0, None),
            ("/toy/damaged", 30, 5.0, "corrupt-image"),
        ]
        assert session.scalars(select(Cohort.state)).all() == ["ready"]
    assert sorted(INSPECTED) == sorted(f"/toy/{name}" for name in FILES)
    INSPECTED.clear()
    assert submit(database, open_any(toy), name="trial").new == 0
    assert sorted(INSPECTED) == ["/toy/gone", "/toy/text"], "images of the cohort were inspected again"


@pytest.mark.usefixtures("model")
def test_a_night_inspects_what_is_new_in_it(database: Database, toy: str) -> None:
    ward = Nightly(name="ward", source=toy)
    nights = NightlySettings(nightly=(ward,))
    assert walk_night(database, nights, run_now(database, ward))
    INSPECTED.clear()
    FILES.update({"2": 21, "3": 10})
    assert walk_night(database, nights, run_now(database, ward))
    # A file that could not be read is not remembered as no image.
    assert Counter(INSPECTED) == Counter(["/toy/2", "/toy/3", "/toy/gone"])
    with database.read() as session:
        assert len(session.scalars(select(Image.id)).all()) == 5


def test_a_name_that_no_kind_accepts_is_a_folder_or_a_url() -> None:
    assert source_modules().keys() == {"folder", "remote"}
