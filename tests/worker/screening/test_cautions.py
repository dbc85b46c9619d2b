"""The cautions of predictions, from the file to the job table."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.registry import ensure_champion
from db.models.store import STATISTICS_FILE, ModelDigestMismatch, ModelMissing
from db.tables import Image, Prediction
from tests.pictures import small_film
from tests.worker.screening.batches import outcomes, submit
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Write three films of the hospital, and one of them upside down and negative."""
    files = [tmp_path / f"film-{seed}.png" for seed in (2001, 2002, 2003)]
    for file in files:
        small_film(int(file.stem[5:]), 224).save(file)
    turned = 255 - np.asarray(PIL.Image.open(files[0]))[::-1]
    PIL.Image.fromarray(turned).save(tmp_path / "strange.png")
    return [*files, tmp_path / "strange.png"]


def screened(
    database: Database, files: list[Path], **settings: str
) -> dict[str, tuple[float | None, str | None]]:
    """Screen files; return the familiarity and the caution of each that has a prediction."""
    Screener(database, WorkerSettings(**settings)).screen(submit(database, files))  # type: ignore[arg-type]
    query = select(Image.uri, Prediction.familiarity, Prediction.caution).join(
        Prediction, Prediction.image_id == Image.id
    )
    with database.read() as session:
        return {Path(row.uri).name: (row.familiarity, row.caution) for row in session.execute(query)}


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_strange_picture_has_its_prediction_and_a_caution(
    runtime: str,
    database: Database,
    knowing_artefact: Path,
    films: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_RUNTIME", runtime)
    ensure_champion(database, knowing_artefact)
    found = screened(database, films)
    assert len(found) == 4
    familiarity, caution = found.pop("strange.png")
    assert caution == "unfamiliar"
    assert familiarity is not None
    assert familiarity < 0.01
    assert all(score is not None and score > 0.01 and said is None for score, said in found.values())


def test_with_skip_a_strange_picture_has_no_prediction(
    database: Database, knowing_artefact: Path, films: list[Path]
) -> None:
    ensure_champion(database, knowing_artefact)
    assert "strange.png" not in screened(database, films, unfamiliar="skip")
    assert outcomes(database)["strange.png"] == "unfamiliar"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("setting", ["flag", "skip"])
def test_a_model_of_an_earlier_version_screens_without_familiarity(
    setting: str, database: Database, films: list[Path]
) -> None:
    found = screened(database, films, unfamiliar=setting)
    assert {*found.values()} == {(None, None)}
    assert len(found) == 4


def test_a_header_outside_of_the_intended_use_gives_a_caution(
    database: Database, knowing_artefact: Path, folder: Path
) -> None:
    ensure_champion(database, knowing_artefact)
    old, child = sorted(path for path in (folder / "dicom").rglob("*") if path.is_file())[:2]
    for path, age in ((old, "070Y"), (child, "018M")):
        dataset = pydicom.dcmread(path)
        dataset.PatientAge = age
        dataset.save_as(path)
    with_codes = {name: (said or "").split() for name, (_, said) in screened(database, [old]).items()}
    assert "outside-intended-use" in with_codes[old.name]
    Screener(database, WorkerSettings()).screen(submit(database, [child], "children"))
    with database.read() as session:
        last = session.scalars(select(Prediction).order_by(Prediction.id.desc())).first()
    assert last is not None
    assert "outside-intended-use" not in (last.caution or "").split()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_model_whose_statistics_are_not_the_registered_ones_screens_nothing(
    damage: str, database: Database, knowing_artefact: Path, films: list[Path]
) -> None:
    model = ensure_champion(database, knowing_artefact)
    file = database.models_folder / model.name / STATISTICS_FILE
    if damage == "gone":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(ModelMissing if damage == "gone" else ModelDigestMismatch):
        screened(database, films)
    assert {*outcomes(database).values()} == {"queued"}
    # To import the model again repairs it.
    from db.models.registry import import_model

    import_model(database, knowing_artefact)
    assert file.read_bytes() == (knowing_artefact / STATISTICS_FILE).read_bytes()
    shutil.rmtree(database.models_folder)
