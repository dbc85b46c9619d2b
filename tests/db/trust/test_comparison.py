"""The comparison of cohorts with the training hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sqlalchemy import event, insert, update

from db.engine import Database
from db.models.registry import import_model
from db.tables import Batch, Model
from db.trust import comparison
from db.trust.acceptances import Measured, write_acceptance
from db.trust.comparison import (
    FEWEST,
    Comparison,
    compare_cohort,
    rank_sum_test,
    recent_cohorts,
)
from tests.db.trust.cohorts import HELD_OUT, know_familiarity, screen, spread

DRAWS = 100


def familiarities(held_out: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the share of held-out pictures that are less familiar than each picture, from any score."""
    return np.searchsorted(np.sort(held_out), pictures) / len(held_out)


def is_unlike(ranks: np.ndarray) -> bool:
    effect, p_value = rank_sum_test(len(ranks), float(ranks.sum()), HELD_OUT)
    found = Comparison(model="m", images=len(ranks), effect=effect, p_value=p_value, acceptance=None)
    return found.unlike


def test_the_test_is_the_rank_sum_test_of_the_two_samples() -> None:
    chance = np.random.default_rng(0)
    for shift in (0.0, 0.3, 2.0):
        held_out, pictures = chance.normal(size=HELD_OUT), chance.normal(-shift, size=70)
        ranks = familiarities(held_out, pictures)
        effect, p_value = rank_sum_test(70, float(ranks.sum()), HELD_OUT)
        expected = mannwhitneyu(
            pictures, held_out, alternative="less", method="asymptotic", use_continuity=False
        )
        assert effect == pytest.approx(1 - expected.statistic / (70 * HELD_OUT))
        assert p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_fifty_pictures_like_those_of_adults_are_found_in_99_of_100_draws() -> None:
    chance = np.random.default_rng(1)
    # Mean 0.1, and most of them near 0.
    found = [is_unlike(chance.beta(0.3, 2.7, size=50)) for _ in range(DRAWS)]
    assert sum(found) >= 99


def test_two_hundred_unseen_pictures_of_the_training_hospital_are_silent_in_95_of_100_draws() -> None:
    chance = np.random.default_rng(2)
    found = [
        is_unlike(familiarities(chance.normal(size=HELD_OUT), chance.normal(size=200))) for _ in range(DRAWS)
    ]
    assert sum(found) <= 5


def test_many_pictures_that_differ_a_little_are_no_alarm() -> None:
    chance = np.random.default_rng(3)
    # Another series of the training hospital.
    assert not is_unlike(chance.random(50_000) * 0.86)


def compared(database: Database, cohort_id: int) -> Comparison | None:
    with database.read() as session:
        return compare_cohort(session, cohort_id)


def test_a_cohort_is_compared_by_the_sums_that_its_batches_store(database: Database, model: Model) -> None:
    know_familiarity(database)
    strange, usual = (
        screen(database, name, spread(120, most=most)) for name, most in (("adults", 0.2), ("children", 1.0))
    )
    found = compared(database, strange)
    assert found is not None
    assert (found.model, found.images, found.unlike) == (model.name, 120, True)
    assert found.effect == pytest.approx(0.9)
    assert "In 90% of pairs" in found.as_text()
    assert "(120 images compared)" in found.as_text()
    assert "`pneumoscreen accept DATA`" in found.as_text()
    found = compared(database, usual)
    assert found is not None
    assert (found.effect, found.unlike, found.as_text()) == (pytest.approx(0.5), False, "")


def test_a_model_that_was_accepted_at_this_site_is_trusted_on_strange_pictures(
    database: Database, model: Model
) -> None:
    know_familiarity(database)
    cohort_id = screen(database, "adults", spread(60, most=0.2))
    said = []
    for accepted in (None, False, True):
        if accepted is not None:
            measured = Measured(
                model=model.name, accepted=accepted, images=200, data_fingerprint="0" * 64, figures={},
                reasons=(),
            )  # fmt: skip
            with database.write() as session:
                write_acceptance(session, measured)
        found = compared(database, cohort_id)
        assert found is not None
        assert found.unlike
        assert found.distrusted is (accepted is not True)
        said.append(found.as_text())
    assert "Do not trust these numbers" in said[0]
    assert "measured at this site, and not accepted" in said[1]
    assert "The model was accepted at this site" in said[2]
    assert "Do not trust" not in said[2]


@pytest.mark.usefixtures("model")
def test_few_pictures_say_nothing(database: Database) -> None:
    know_familiarity(database)
    for count, unlike in ((FEWEST - 1, False), (FEWEST, True)):
        found = compared(database, screen(database, f"of-{count}", [0.001] * count))
        assert found is not None
        assert found.unlike is unlike


@pytest.mark.usefixtures("model")
def test_a_model_without_familiarity_says_nothing(database: Database) -> None:
    assert compared(database, screen(database, "unknown", [None] * 30)) is None
    # A card of another version: the ranks are of nothing.
    assert compared(database, screen(database, "no-card", [0.001] * 30)) is None


def test_a_batch_of_an_earlier_version_counts_for_nothing(database: Database, model: Model) -> None:
    know_familiarity(database)
    cohort_id = screen(database, "trial", [0.001] * 30)
    with database.write() as session:
        session.add(Batch(cohort_id=cohort_id, model_id=model.id, state="done", size=256, finished_at=1.0))
    found = compared(database, cohort_id)
    assert found is not None
    assert found.images == 30


def test_of_several_models_the_one_with_most_pictures_counts(
    database: Database, model: Model, other_artefact: Path
) -> None:
    cohort_id = screen(database, "trial", spread(60))
    other = import_model(database, other_artefact)
    know_familiarity(database)
    with database.write() as session:
        profile = {"compared": 40, "familiarity_sum": 0.4, "counts": {}}
        for _ in range(2):
            session.add(
                Batch(
                    cohort_id=cohort_id, model_id=other.id, state="done", size=40, finished_at=1.0,
                    profile=profile,
                )
            )  # fmt: skip
    found = compared(database, cohort_id)
    assert found is not None
    assert (found.model, found.images, found.unlike) == (other.name, 80, True)


@pytest.mark.usefixtures("model")
def test_only_the_newest_batches_are_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "NEWEST", 3)
    know_familiarity(database)
    cohort_id = screen(database, "trial", [0.9] * 160 + [0.001] * 48, batch_images=16)
    found = compared(database, cohort_id)
    assert found is not None
    assert (found.images, found.unlike) == (48, True)


@pytest.mark.usefixtures("model")
def test_the_cohorts_that_were_screened_last_are_the_recent_ones(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_COHORTS", 2)
    first, *others = (screen(database, f"cohort-{number}", [0.5]) for number in range(4))
    with database.read() as session:
        assert recent_cohorts(session) == others[-2:]
    monkeypatch.setattr(comparison, "_LAST_BATCHES", 1)
    with database.write() as session:
        session.execute(update(Batch).where(Batch.cohort_id == first).values(finished_at=2e9))
    with database.read() as session:
        assert recent_cohorts(session) == [first], "it was added first, and screened last"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_reads_the_newest_batches_by_an_index(database: Database, model: Model) -> None:
    cohort_id, other = (screen(database, name, [0.5]) for name in ("large", "larger"))
    columns = {"model_id": model.id, "state": "done", "size": 256, "finished_at": 1.0}
    with database.write() as session:
        for owner, batches in ((cohort_id, 2_000), (other, 8_000)):
            session.execute(insert(Batch), [columns | {"cohort_id": owner}] * batches)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE batches")
    plans: list[str] = []

    def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        if "ORDER BY batches.id DESC" in statement and not statement.startswith("EXPLAIN"):
            plans.extend(row[0] for row in cursor.execute(f"EXPLAIN {statement}", parameters))

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        compared(database, cohort_id)
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)
    assert any("Index Scan Backward using ix_batches_cohort_id_state_id" in line for line in plans), plans
