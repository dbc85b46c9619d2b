"""Profiles of batches: what they count, and that they add up."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.predictions import Acquisition
from db.tables import Batch
from db.trust.comparison import compare_cohort
from db.trust.profile import AGE, MANUFACTURER, OTHER, SIZE, UNKNOWN, VIEW, Profile, profile_of
from tests.db.trust.cohorts import know_familiarity, screen, screened, spread

CHILD = Acquisition(manufacturer="FUJIFILM Corporation", view_position="AP", age="4.5", size="2048x2500")


def test_a_batch_stores_how_many_of_its_predictions_fall_into_each_group(
    database: Database, model: object
) -> None:
    screen(database, "trial", [0.005, 0.25, 0.999, 1.0, None], acquisition=CHILD)
    with database.read() as session:
        stored = session.scalars(select(Batch.profile)).one()
    assert stored == {
        "compared": 4,
        "familiarity_sum": pytest.approx(2.254),
        "counts": {
            "age": {"1-5": 5},
            "caution": {"unfamiliar": 1},
            "familiarity": {"0.0": 1, "0.2": 1, "0.9": 2},
            "manufacturer": {"FUJIFILM CORPORATION": 5},
            "probability": {"0.2": 5},
            "size": {"2000-2999": 5},
            "view": {"AP": 5},
        },
    }


def test_profiles_add_up_to_that_of_all_predictions_in_any_order() -> None:
    chance = random.Random(0)
    makers, views, ages = ("A", "B", ""), ("PA", "AP", "LLD", ""), ("0.3", "17.9", "18.0", "90.0", "")
    one_each = [
        replace(
            one,
            probability=chance.random(),
            acquisition=Acquisition(
                manufacturer=chance.choice(makers),
                view_position=chance.choice(views),
                age=chance.choice(ages),
                size=chance.choice(("999x10", "10x3000", "")),
            ),
        )
        for one in screened([chance.choice((0.004, 0.3, None)) for _ in range(200)])
    ]
    whole = profile_of(one_each)
    for _ in range(10):
        ends = sorted(chance.sample(range(200), 5))
        parts = [profile_of(one_each[start:end]) for start, end in pairwise([0, *ends, 200])]
        chance.shuffle(parts)
        found = sum((Profile(**part.as_json()) for part in parts), Profile()).as_json()
        assert found == whole.as_json() | {"familiarity_sum": pytest.approx(whole.familiarity_sum)}
    assert all(sum(whole.counts[figure].values()) == 200 for figure in (MANUFACTURER, VIEW, AGE, SIZE))
    assert whole.counts[AGE].keys() == {"0", "6-17", "18-39", "65+", UNKNOWN}
    assert whole.counts[VIEW].keys() == {"PA", "AP", OTHER, UNKNOWN}
    assert whole.counts[SIZE].keys() == {"under 1000", "3000 and more", UNKNOWN}


def test_pictures_that_were_skipped_as_unfamiliar_count_as_unfamiliar() -> None:
    profile = profile_of(screened([0.5, 0.005]), unfamiliar=40)
    assert (profile.compared, profile.familiarity_sum) == (42, pytest.approx(0.505))
    assert profile.counts["familiarity"] == {"0.0": 41, "0.5": 1}
    assert profile.counts["caution"] == {"unfamiliar": 41}


def test_a_file_without_a_header_is_counted_as_unknown() -> None:
    counts = profile_of(screened([0.5])).counts
    assert all(counts[figure] == {UNKNOWN: 1} for figure in (MANUFACTURER, VIEW, AGE, SIZE))


def test_many_manufacturers_are_stored_as_the_most_frequent_ones_and_others() -> None:
    makers = [f"MAKER {number}" for number in range(40)]
    each = (Acquisition(manufacturer=maker, view_position="", age="", size="") for maker in makers)
    parts = [profile_of(screened([0.5] * (1 + number), acquisition=one)) for number, one in enumerate(each)]
    whole = sum(parts, Profile())
    assert len(whole.counts[MANUFACTURER]) == 40
    stored = whole.as_json()["counts"][MANUFACTURER]
    assert len(stored) == 9
    assert stored["MAKER 39"] == 40
    assert stored[OTHER] == sum(range(1, 33))


@pytest.mark.parametrize("text", ["\0", "\ud800", "x" * 100, "-1x-1", "1e9", "²", "'; --"])
def test_a_strange_header_costs_nothing_but_its_own_group(
    database: Database, model: object, text: str
) -> None:
    know_familiarity(database)
    strange = Acquisition(manufacturer=text, view_position=text, age=text, size=text)
    cohort_id = screen(database, "trial", spread(30), acquisition=strange)
    with database.read() as session:
        assert compare_cohort(session, cohort_id) is not None
        counts = session.scalars(select(Batch.profile)).all()
    assert all(one is not None and sum(one["counts"]["size"].values()) for one in counts)
