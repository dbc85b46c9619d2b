"""Which model screens."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.model_card import WEIGHTS_FILE, ModelDigestMismatch
from db.registry import (
    ModelUnknown,
    NothingToRollBack,
    champion,
    ensure_champion,
    find_champion,
    import_model,
    model_events,
    promote,
    rollback,
)
from db.states import ModelState
from db.tables import Event, Model


def test_the_default_becomes_champion_once(database: Database, artefact: Path, other_artefact: Path) -> None:
    first = ensure_champion(database, artefact)
    assert ensure_champion(database, other_artefact).id == first.id
    assert (database.models_folder / first.name / WEIGHTS_FILE).is_file()
    with database.read() as session:
        assert session.scalars(select(Model.name)).all() == [artefact.name]


def test_importing_twice_registers_once(database: Database, artefact: Path) -> None:
    assert import_model(database, artefact).id == import_model(database, artefact).id
    with database.read() as session:
        assert find_champion(session) is None
        assert session.scalar(select(func.count()).select_from(Event)) == 1


def test_promoting_retires_the_champion(database: Database, model: Model, other_artefact: Path) -> None:
    other = import_model(database, other_artefact)
    for _ in range(2):
        with database.write() as session:
            promote(session, other.name)
    with database.read() as session:
        assert champion(session).id == other.id
        assert session.get_one(Model, model.id).state is ModelState.RETIRED
    with pytest.raises(ModelUnknown), database.write() as session:
        promote(session, "resnet50-ffffffffffff")


@pytest.mark.usefixtures("model")
def test_the_database_itself_allows_one_champion(database: Database, other_artefact: Path) -> None:
    other = import_model(database, other_artefact)
    with pytest.raises(DatabaseFailed), database.write() as session:
        session.get_one(Model, other.id).state = ModelState.CHAMPION


def test_weights_that_are_not_the_cards_are_not_imported(
    database: Database, artefact: Path, tmp_path: Path
) -> None:
    for file in artefact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / WEIGHTS_FILE).write_bytes(b"something else")
    with pytest.raises(ModelDigestMismatch):
        import_model(database, tmp_path)
    with database.read() as session:
        assert session.scalars(select(Model)).all() == []


def test_rolling_back_goes_back_one_reign_at_a_time(
    database: Database, model: Model, other_artefact: Path
) -> None:
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
        promote(session, model.name)
        assert rollback(session).name == other.name
        assert rollback(session).name == model.name
    with database.write() as session, pytest.raises(NothingToRollBack):
        rollback(session)
    with database.read() as session:
        assert champion(session).name == model.name
        assert [event.action for event in model_events(session, other)] == [
            "model.import",
            "model.promote",
            "model.rollback",
        ]
