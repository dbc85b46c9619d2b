"""The morning summary: its figures, its page and its text."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.models.predictions import Acquisition
from db.nights.runs import conclude_nights, find_night, now
from db.tables import Batch, Cohort, Model, NightlyRun, Prediction
from db.trust.profile import profile_of
from scheduler.exports.noted_heads import noted_heads, sealed_head
from scheduler.nightly.conclusion import conclude, summarise
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly
from scheduler.nightly.slots import run_now
from tests.db.trust.cohorts import know_familiarity, screened, spread
from tests.scheduler.nightly.nights import end, finish, screen, settings, walk


def test_the_summary_holds_the_figures_of_the_night(
    with_champion: Database, ward: Nightly, home: Path, folder: Path
) -> None:
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.97, 0.2])
    audit_head = sealed_head(with_champion)
    summarise(with_champion, settings(ward), run_id)
    noted = [noted_heads(file) for file in (home / "nightly").iterdir()]
    assert noted == [{audit_head}] * 3, "in the page, the text and the figures"
    with with_champion.write() as session:  # the night before
        session.execute(update(NightlyRun).values(created_at=0, finished_at=1))
        session.execute(update(Batch).values(finished_at=1))
    with with_champion.read() as session:
        figures = find_night(session, run_id).summary
    assert figures is not None
    assert (figures["new"], figures["done"], figures["positive"], figures["left"]) == (3, 2, 1, 0)
    assert figures["failed"] == {"corrupt-image": 1}
    assert figures["bands"] == [0] * 9 + [1]
    assert figures["images_per_second"] == pytest.approx(1.0)
    text = next((home / "nightly").glob("*.txt")).read_text()
    page = next((home / "nightly").glob("*.html")).read_text()
    for content in (text, page):
        assert "corrupt-image" in content
        assert "Not a diagnosis" in content
        assert str(folder) not in content
    assert conclude(with_champion) == [], "it would be summarised twice"
    (folder / "new.png").write_bytes(b"x")
    later = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), later)
    screen(with_champion, later, [0.1])
    summarise(with_champion, settings(ward), later)
    text = sorted((home / "nightly").glob("*.txt"))[-1].read_text()
    assert "Compared with the night before:" in text
    assert "screened 1, median before 2" in text


def test_the_summary_names_cohort_model_and_host_and_its_counts_add_up(
    with_champion: Database, ward: Nightly, home: Path, folder: Path
) -> None:
    first = walk(with_champion, ward)
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(window_ends=now(session)))
        assert conclude_nights(session) == [first]
    end(with_champion, ward, first)
    (folder / "3.png").write_bytes(b"new")
    second = walk(with_champion, ward)
    finish(with_champion, first, [0.9, 0.2])
    finish(with_champion, second, [0.8])
    with with_champion.write() as session:
        assert conclude_nights(session) == [second]
        cohort = session.get_one(Cohort, find_night(session, second).cohort_id)
        model = session.scalars(select(Model.name)).one()
    figures = end(with_champion, ward, second)
    assert figures["models"] == {model: 3}
    text, page, written = (
        (home / "nightly" / f"ward-{second:06d}.{suffix}").read_text() for suffix in ("txt", "html", "json")
    )
    most_probable = [image for image, _ in figures["most_probable"]]
    for content in (text, page):
        for named in (socket.gethostname(), cohort.name, f"{model} (3 images)"):
            assert named in content
        assert all(f"image {image}" in text and f"<td>{image}</td>" in page for image in most_probable)
        assert f"pneumoscreen show image {most_probable[0]}" in content
        assert f"pneumoscreen results {cohort.name} --out FILE" in content
        assert "2</b> of 3" in content or "Positive: 2 of 3 screened" in content
    assert "`" not in page
    assert "<code>pneumoscreen show image" in page
    facts = json.loads(written)
    assert (facts["cohort"], facts["cohort_id"], facts["run"]) == (cohort.name, cohort.id, second)
    lines = [line.split() for line in text.splitlines()]
    rows = {" ".join(line[:-5]): list(map(int, line[-5:])) for line in lines if "".join(line[-5:]).isdigit()}
    # images, screened, skipped, failed, left
    assert rows["new tonight"] == [1, 1, 0, 0, 0]
    assert rows["left by earlier nights"] == [3, 2, 0, 1, 0]
    assert rows["together"] == [4, 3, 0, 1, 0]


def test_positives_of_another_model_are_not_counted(with_champion: Database, ward: Nightly) -> None:
    run_id = walk(with_champion, ward)
    screen(with_champion, run_id, [0.9, 0.2, 0.1])
    with with_champion.write() as session:
        (one, *_) = session.scalars(select(Prediction).order_by(Prediction.id))
        champion = session.get_one(Model, one.model_id)
        other = Model(
            name="resnet18-other", backbone="resnet18", weights_digest="1" * 64, threshold=0.5,
            card=champion.card, state="retired",
        )  # fmt: skip
        session.add(other)
        session.flush()
        copied = {
            c.key: getattr(one, c.key) for c in Prediction.__table__.c if c.key not in ("id", "model_id")
        }
        session.add(Prediction(**copied | {"model_id": other.id}))
    figures = end(with_champion, ward, run_id)
    assert (figures["positive"], figures["models"]) == (1, {champion.name: 3})


def test_a_second_slot_of_a_day_reports_its_own_images_alone(
    with_champion: Database, ward: Nightly, folder: Path
) -> None:
    evening = walk(with_champion, ward)
    screen(with_champion, evening, [0.9, 0.8, 0.1])
    first = end(with_champion, ward, evening)
    assert (first["new"], first["done"], first["positive"]) == (3, 3, 2)
    for number in range(3, 6):
        (folder / f"{number}.png").write_bytes(b"new")
    night = walk(with_champion, ward)
    screen(with_champion, night, [])
    second = end(with_champion, ward, night)
    assert (second["new"], second["done"], second["failed"]) == (3, 0, {"corrupt-image": 3})
    assert (second["positive"], second["earlier"]["done"]) == (0, 0)
    with with_champion.read() as session:
        names = session.scalars(select(Cohort.name).order_by(Cohort.id)).all()
    assert names[1] == f"{names[0]}-2"


def test_images_that_a_night_leaves_are_counted_once_in_the_night_that_screens_them(
    with_champion: Database, ward: Nightly, folder: Path
) -> None:
    first = walk(with_champion, ward)
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(window_ends=now(session)))
        assert conclude_nights(session) == [first]
    held = end(with_champion, ward, first)
    assert (held["new"], held["done"], held["left"]) == (3, 0, 3)
    (folder / "3.png").write_bytes(b"new")
    second = walk(with_champion, ward)
    # What the first night had left is screened in the second one.
    finish(with_champion, first, [0.9, 0.2])
    finish(with_champion, second, [0.8])
    with with_champion.write() as session:
        assert conclude_nights(session) == [second]
    figures = end(with_champion, ward, second)
    assert (figures["new"], figures["done"], figures["left"]) == (1, 1, 0)
    assert figures["earlier"] == {"done": 2, "skipped": {}, "failed": {"corrupt-image": 1}, "left": 0}
    assert (figures["positive"], len(figures["most_probable"])) == (2, 2)
    (folder / "4.png").write_bytes(b"new")
    third = walk(with_champion, ward)
    screen(with_champion, third, [0.1])
    assert end(with_champion, ward, third)["earlier"] == {"done": 0, "skipped": {}, "failed": {}, "left": 0}


def test_the_summary_says_that_a_night_is_unlike_the_training_hospital(
    with_champion: Database, ward: Nightly, home: Path
) -> None:
    know_familiarity(with_champion)
    run_id = walk(with_champion, ward)
    maker = Acquisition(manufacturer="QZCANARY", view_position="PA", age="70.0", size="2048x2048")
    profile = profile_of(screened(spread(60, most=0.2), acquisition=maker))
    screen(with_champion, run_id, [0.9, 0.2, 0.1], profile)
    figures = end(with_champion, ward, run_id)
    assert figures["comparison"]["unlike"]
    assert figures["profile"]["counts"]["manufacturer"] == {"QZCANARY": 60}
    files = {file.suffix: file.read_text() for file in (home / "nightly").iterdir()}
    for content in files.values():
        assert "Do not trust these numbers" in content
        assert "In 90% of pairs" in content
        assert "60 images compared" in content
        assert "pneumoscreen accept DATA" in content
        assert "QZCANARY" not in content, "a header's text leaves the job table only in exports"
    assert "done; unlike the training hospital" in files[".txt"]
    assert json.loads(files[".json"])["comparison"] == figures["comparison"]


def test_a_night_like_the_training_hospital_has_no_warning(
    with_champion: Database, ward: Nightly, home: Path
) -> None:
    know_familiarity(with_champion)
    run_id = walk(with_champion, ward)
    screen(with_champion, run_id, [0.9, 0.2, 0.1], profile_of(screened(spread(60))))
    figures = end(with_champion, ward, run_id)
    assert not figures["comparison"]["unlike"]
    assert all("Do not trust" not in file.read_text() for file in (home / "nightly").iterdir())


def test_drift_is_drawn_over_the_nights(
    with_champion: Database, ward: Nightly, home: Path, folder: Path
) -> None:
    know_familiarity(with_champion)

    def screened_night(age: str, most: float = 1.0) -> str:
        (folder / f"{len(list(folder.iterdir()))}.png").write_bytes(b"new")
        run_id = walk(with_champion, ward)
        one = Acquisition(manufacturer="A", view_position="PA", age=age, size="2048x2048")
        profile = profile_of(screened(spread(60, most=most), acquisition=one))
        screen(with_champion, run_id, [0.1], profile)
        figures = end(with_champion, ward, run_id)
        assert figures.keys() >= {"drift", "profile"}
        return f"{home}/nightly/ward-{run_id:06d}"

    nights = [screened_night("4.0") for _ in range(3)]
    assert "Drift" not in Path(f"{nights[0]}.txt").read_text()
    last = screened_night("70.0", most=0.2)
    text, page, facts = (Path(f"{last}.{suffix}").read_text() for suffix in ("txt", "html", "json"))
    assert "above 0.25 is a change), compared with the 3 nights before:" in text
    (line,) = (line.strip() for line in text.splitlines() if "age in years" in line)
    assert line.startswith("age in years ")
    assert line.endswith("changed; 1-5: 0%, before 100%")
    assert "  manufacturer 0.00\n" in text
    assert "mean familiarity 0.10, median before 0.50" in text
    drift = json.loads(facts)["drift"]
    assert {figure for figure, one in drift.items() if one["changed"]} == {"age", "familiarity"}
    # A bar for each night that could be compared: all but the first.
    drawing = page.partition('aria-label="Drift of age in years')[2].partition("</svg>")[0]
    assert drawing.count("<rect") == 3
    assert drawing.count("#b3372f") == 1
    assert "src=" not in page
    assert "href=" not in page
    assert "1-5: 0%, before 100%" in page
