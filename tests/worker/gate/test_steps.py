"""A new step of the gate: an entry in `PICTURE_STEPS` is enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

import worker.gate.steps
from db.engine import Database
from db.jobs.problems import LateralView
from db.tables import Image, Prediction
from tests.worker.screening.batches import outcomes, submit
from worker.gate.verdict import Verdict
from worker.imaging.picture import Picture
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


def refuse_rasters(pictures: Sequence[Picture]) -> list[Verdict]:
    """Refuse each picture without a DICOM header, as a step in a new file would do."""
    return [
        Verdict(LateralView(), score=0.9) if one.facts is None else Verdict(score=0.1) for one in pictures
    ]


def refuse_none(pictures: Sequence[Picture]) -> list[Verdict]:
    """Pass everything, and check that it gets only pictures that the step before has passed."""
    assert all(one.facts is not None and one.facts.instance_uid for one in pictures)
    return [Verdict()] * len(pictures)


@pytest.mark.usefixtures("model")
def test_a_new_step_skips_images_with_its_code(
    database: Database, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.gate.steps, "PICTURE_STEPS", (refuse_rasters, refuse_none))
    files = sorted(path for path in phantoms.rglob("*") if path.is_file())
    Screener(database, WorkerSettings(forward_images=4)).screen(submit(database, files))
    rasters = {file.name for file in files if file.suffix in (".jpeg", ".png")}
    assert {name: found for name, found in outcomes(database).items() if name in rasters} == dict.fromkeys(
        rasters, "lateral-view"
    )
    with database.read() as session:
        states = session.scalars(select(Image.state)).all()
        assert sorted(states) == ["done"] * 4 + ["skipped"] * 6
        assert len(session.scalars(select(Prediction)).all()) == 4
