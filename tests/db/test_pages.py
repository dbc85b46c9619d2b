"""Pages of cohorts and images, and the explanation of one image, on both databases."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import update

from db.engine import Database
from db.jobs.cohorts import find_cohort
from db.queries import pages
from db.queries.explanation import ImageUnknown, show_image
from db.queries.pages import ImageFilter, Page, list_cohorts, list_images
from db.queries.results import Disclosure, ResultRow
from db.states import CohortState, ImageState
from db.tables import Image, Prediction
from tests.growth import grow

IMAGES = 400
QUERIES = Path(pages.__file__).parent


@pytest.fixture
def grown(database: Database) -> Database:
    """Fill a job table with a finished cohort, a waiting one, and twelve of one image each."""
    grow(database, IMAGES, finished=12)
    return database


def ids(page: Page[ResultRow]) -> list[int]:
    return [row.image for row in page.rows]


def all_pages(database: Database, wanted: ImageFilter | None = None, limit: int = 30) -> list[list[int]]:
    found, after = [], 0
    while True:
        with database.read() as session:
            page = list_images(
                session, find_cohort(session, "large"), after=after, limit=limit, wanted=wanted
            )
        found.append(ids(page))
        if page.next_after is None:
            return found
        after = page.next_after


def test_pages_hold_every_image_once_and_in_order(grown: Database) -> None:
    found = all_pages(grown)
    assert list(chain(*found)) == list(range(1, IMAGES + 1))
    assert {len(page) for page in found[:-1]} == {30}


def test_a_last_page_that_is_full_has_no_next_one(grown: Database) -> None:
    assert [len(page) for page in all_pages(grown, limit=IMAGES // 2)] == [IMAGES // 2] * 2


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (ImageFilter(state=ImageState.FAILED), lambda n: n % 20 == 0),
        (ImageFilter(problem="not-chest"), lambda n: n % 19 == 0 and n % 20),
        (ImageFilter(problem="corrupt-image"), lambda n: n % 20 == 0),
        (ImageFilter(label="PNEUMONIA"), lambda n: n % 20 and n % 19),
        (ImageFilter(label="NORMAL"), lambda _: False),
        (ImageFilter(min_probability=0.8), lambda n: n in (7, 390)),
        (ImageFilter(min_probability=0.8, label="PNEUMONIA", state=ImageState.DONE), lambda n: n in (7, 390)),
        (ImageFilter(min_probability=0.8, state=ImageState.FAILED), lambda _: False),
    ],
)
def test_a_filter_finds_the_images_that_meet_it(
    grown: Database, wanted: ImageFilter, matches: Callable[[int], bool]
) -> None:
    with grown.write() as session:
        session.execute(update(Prediction).where(Prediction.image_id.in_((7, 390))).values(probability=0.9))
    expected = [number for number in range(1, IMAGES + 1) if matches(number)]
    assert list(chain(*all_pages(grown, wanted, limit=7))) == expected


def test_a_page_with_a_rare_filter_ends_and_says_where_the_next_one_begins(
    grown: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "EXAMINED", 100)
    with grown.write() as session:
        session.execute(update(Prediction).where(Prediction.image_id == 390).values(probability=0.9))
    with grown.read() as session:
        page = list_images(
            session, find_cohort(session, "large"), wanted=ImageFilter(min_probability=0.8), limit=5
        )
    assert page.rows == ()
    assert page.next_after is not None
    assert list(chain(*all_pages(grown, ImageFilter(min_probability=0.8), limit=5))) == [390]


def test_rows_of_a_page_hold_identifiers_only_if_they_are_asked_for(grown: Database) -> None:
    with grown.read() as session:
        cohort = find_cohort(session, "large")
        (open_row,) = list_images(session, cohort, limit=1).rows
        (row,) = list_images(
            session, cohort, limit=1, disclosure=Disclosure(pseudonym=lambda _: "pseudonym")
        ).rows
    assert (open_row.source, open_row.instance) == ("/data/1.dcm", "1.4.1")
    assert (row.source, row.instance) == ("sha256:d1", "pseudonym")


def test_cohorts_come_newest_first_with_their_progress(grown: Database) -> None:
    with grown.read() as session:
        first = list_cohorts(session, limit=10)
        second = list_cohorts(session, after=first.next_after, limit=10)
        ready = list_cohorts(session, states=[CohortState.READY], nightly="ward")
        none = list_cohorts(session, states=[CohortState.CANCELLED])
    assert [row.name for row in first.rows] == [f"finished-{n}" for n in range(12, 2, -1)]
    kept = [row for row in second.rows if not row.archived]
    assert [row.name for row in kept] == ["finished-2", "finished-1", "waiting", "large"]
    assert (kept[-1].total, kept[-2].queued) == (IMAGES, 512)
    assert second.next_after is None
    assert [row.name for row in ready.rows if not row.archived] == ["large"]
    assert none == Page((), None)


def test_an_image_is_shown_with_all_that_explains_its_prediction(grown: Database) -> None:
    with grown.read() as session:
        shown = show_image(session, 1)
        failed = show_image(session, 20, disclosure=Disclosure(pseudonym=lambda _: "pseudonym"))
    (prediction,) = shown.predictions
    assert (shown.result.source, shown.digest, shown.worker, shown.attempts) == (
        "/data/1.dcm", "d1", "host:1", 1,
    )  # fmt: skip
    assert (prediction.model, prediction.weights_digest, prediction.is_current) == ("resnet50-1", "a", True)
    assert (prediction.probability, prediction.label, prediction.threshold) == (0.5, "PNEUMONIA", 0.5)
    assert (prediction.precision, prediction.runtime, prediction.preprocessing) == ("fp32", "torch", "p/1")
    assert (prediction.software, prediction.input_digest, prediction.predicted_at) == ("0", "d", 1.0)
    assert failed.predictions == ()
    assert (failed.result.error, failed.result.study) == ("corrupt-image", "pseudonym")


def test_a_prediction_of_another_model_than_the_batch_s_is_not_current(grown: Database) -> None:
    with grown.write() as session:
        session.execute(update(Image).where(Image.id == 1).values(state=ImageState.PENDING, batch_id=None))
    with grown.read() as session:
        shown = show_image(session, 1)
    assert [one.is_current for one in shown.predictions] == [False]
    assert shown.result.probability is None


def test_an_unknown_image_is_an_error(grown: Database) -> None:
    with grown.read() as session, pytest.raises(ImageUnknown):
        show_image(session, 10**9)


@pytest.mark.parametrize("file", sorted(QUERIES.glob("*.py")), ids=lambda file: file.name)
def test_nothing_in_queries_writes(file: Path) -> None:
    writers = {"insert", "update", "delete", "text", "dialects", "DDL", "record", "seal"}
    methods = {
        "add", "add_all", "delete", "merge", "flush", "commit", "with_for_update", "bulk_save_objects",
        "exec_driver_sql", "connection",
    }  # fmt: skip
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} | {(node.module or "").rpartition(".")[2]}
            assert not names & writers or node.module == "db.text", f"{file.name} imports {names & writers}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, on = node.func.attr, node.func.value
            assert name not in methods or not (isinstance(on, ast.Name) and on.id == "session"), name
            assert name != "with_for_update", f"{file.name} locks rows"
        elif isinstance(node, ast.Assign):
            assert not any(isinstance(target, ast.Attribute) for target in node.targets), file.name
