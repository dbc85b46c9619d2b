"""The comparison of a cohort with the training hospital, from the files to the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.models.registry import ensure_champion
from db.trust.comparison import Comparison, compare_cohort
from tests.pictures import small_film
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

FILMS = 24


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Write unseen films of the hospital that the model learned from."""
    files = [tmp_path / f"film-{number}.png" for number in range(FILMS)]
    for number, file in enumerate(files):
        small_film(3000 + number, 224).save(file)
    return files


@pytest.fixture
def strange(films: list[Path], tmp_path: Path) -> list[Path]:
    """Write films of another hospital: these are negative and upside down."""
    files = [tmp_path / f"strange-{number}.png" for number in range(FILMS)]
    for film, file in zip(films, files, strict=True):
        PIL.Image.fromarray(255 - np.asarray(PIL.Image.open(film))[::-1]).save(file)
    return files


def screened(database: Database, screener: Screener, files: list[Path], name: str) -> Comparison:
    """Screen files as a cohort, and compare it."""
    with database.write() as session:
        cohort_id = open_cohort(session, name, source="/data").id
        add_images(session, cohort_id, [NewImage(uri=str(file)) for file in files])
        mark_ready(session, cohort_id)
        batch_ids = cut_batches(session, cohort_id, batch_images=256, in_flight=9)
    for batch_id in batch_ids:
        screener.screen(batch_id)
    with database.read() as session:
        found = compare_cohort(session, cohort_id)
    assert found is not None
    return found


@pytest.mark.parametrize("setting", ["flag", "skip"])
def test_a_cohort_of_another_hospital_is_distrusted_also_if_its_pictures_are_skipped(
    setting: str, database: Database, knowing_artefact: Path, films: list[Path], strange: list[Path]
) -> None:
    ensure_champion(database, knowing_artefact)
    screener = Screener(database, WorkerSettings(unfamiliar=setting))  # type: ignore[arg-type]
    own = screened(database, screener, films, "own")
    other = screened(database, screener, strange, "other")
    assert (other.images, other.distrusted) == (FILMS, True)
    assert other.effect > 0.95
    assert (own.images, own.distrusted) == (FILMS, False)
