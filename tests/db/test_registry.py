"""The model registry: import, promotion and rollback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from db.audit.events import record
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.models.card import ModelInvalid, ModelPreprocessingMismatch
from db.models.registry import (
    GateNotPassed,
    ModelDiffers,
    ModelUnknown,
    NothingToRollBack,
    champion,
    check_gate,
    ensure_champion,
    find_champion,
    import_model,
    model_events,
    promote,
    registered_card,
    rollback,
)
from db.models.store import (
    CARD_FILE,
    STATISTICS_FILE,
    WEIGHTS_FILE,
    ModelDigestMismatch,
    ModelMissing,
    read_card,
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


def test_a_registered_model_takes_over_only_what_its_card_lacks_about_faster_formats(
    database: Database, model: Model, artefact: Path, tmp_path: Path
) -> None:
    newer = tmp_path / artefact.name
    shutil.copytree(artefact, newer)
    card = json.loads((newer / CARD_FILE).read_text())
    for error in (0.5, 0.7):
        card["precisions"] = {"int8": {"error": error, "ranges": {"0.4.0": 3.5}}}
        (newer / CARD_FILE).write_text(json.dumps(card))
        # An installation that is newer than its job table brings such a card of the default model.
        assert ensure_champion(database, newer).id == model.id
        import_model(database, newer)
    with database.read() as session:
        kept = registered_card(champion(session))
    assert kept.precisions["int8"].error == 0.5
    assert kept.precisions["int8"].ranges == {"0.4.0": 3.5}
    placed = json.loads((database.models_folder / model.name / CARD_FILE).read_text())
    assert placed["precisions"] == kept.model_dump(mode="json")["precisions"]


def test_a_registered_model_takes_over_the_familiarity_and_the_intended_use_that_its_card_lacks(
    database: Database, model: Model, artefact: Path, knowing_artefact: Path
) -> None:
    assert ensure_champion(database, knowing_artefact).id == model.id
    import_model(database, artefact)  # an earlier version's files take nothing away
    with database.read() as session:
        kept = registered_card(champion(session))
    newer, folder = read_card(knowing_artefact), database.models_folder / model.name
    assert (kept.familiarity, kept.intended_use) == (newer.familiarity, newer.intended_use)
    assert kept.familiarity is not None
    statistics = (folder / STATISTICS_FILE).read_bytes()
    assert statistics == (knowing_artefact / STATISTICS_FILE).read_bytes()
    assert read_card(folder).familiarity == kept.familiarity


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"intended_use": {"age_years": [0, 99]}}, "intended_use"),
        ({"familiarity": {"digest": "0" * 64, "images": 1, "held_out": 1}}, None),
    ],
)
def test_a_registered_model_keeps_what_it_has_of_familiarity_and_intended_use(
    fields: dict[str, Any], named: str | None, database: Database, knowing_artefact: Path, tmp_path: Path
) -> None:
    import_model(database, knowing_artefact)
    other = tmp_path / knowing_artefact.name
    shutil.copytree(knowing_artefact, other)
    card = json.loads((other / CARD_FILE).read_text())
    (other / CARD_FILE).write_text(json.dumps(card | fields))
    # Statistics whose digest is not the card's are refused before anything is compared.
    with pytest.raises(ModelDiffers if named else ModelDigestMismatch) as refused:
        import_model(database, other)
    assert named is None or named in str(refused.value)


def test_a_model_whose_card_names_statistics_is_not_imported_without_them(
    database: Database, knowing_artefact: Path, tmp_path: Path
) -> None:
    other = tmp_path / knowing_artefact.name
    shutil.copytree(knowing_artefact, other)
    (other / STATISTICS_FILE).unlink()
    with pytest.raises(ModelMissing):
        import_model(database, other)
    (other / STATISTICS_FILE).symlink_to(knowing_artefact / STATISTICS_FILE)
    with pytest.raises(ModelInvalid):
        import_model(database, other)


@pytest.mark.parametrize(
    "precisions",
    [
        {"fp8": {"error": 1}},
        {"int8": {"error": 0}},
        {"int8": {"error": 1, "ranges": {"0.4.0": -1}}},
        {"int8": {"error": 1, "ranges": {"a b": 1}}},
        {"int8": {"ranges": {}}},
    ],
)
def test_a_card_with_unknown_or_impossible_formats_is_refused(
    database: Database, artefact: Path, tmp_path: Path, precisions: dict[str, Any]
) -> None:
    shutil.copytree(artefact, tmp_path / artefact.name)
    path = tmp_path / artefact.name / CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precisions": precisions}))
    with pytest.raises(ModelInvalid):
        import_model(database, tmp_path / artefact.name)


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


def test_weights_that_do_not_match_their_card_are_not_imported(
    database: Database, artefact: Path, tmp_path: Path
) -> None:
    for file in artefact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / WEIGHTS_FILE).write_bytes(b"something else")
    with pytest.raises(ModelDigestMismatch):
        import_model(database, tmp_path)
    with database.read() as session:
        assert session.scalars(select(Model)).all() == []


def test_rolling_back_goes_back_one_champion_at_a_time(
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


@pytest.fixture
def changed(artefact: Path, tmp_path: Path) -> Path:
    """Copy the small model, so that a test can change it."""
    return Path(shutil.copytree(artefact, tmp_path / "changed" / artefact.name))


def change_card(folder: Path, **fields: Any) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | fields))


def files_of(database: Database, name: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (database.models_folder / name).iterdir()}


def actions(database: Database, model: Model) -> list[str]:
    with database.read() as session:
        return [event.action for event in model_events(session, model)]


def test_other_weights_under_the_champions_id_touch_neither_its_files_nor_its_row(
    database: Database, model: Model, other_artefact: Path, changed: Path
) -> None:
    before = files_of(database, model.name)
    shutil.copyfile(other_artefact / WEIGHTS_FILE, changed / WEIGHTS_FILE)
    digest = json.loads((other_artefact / CARD_FILE).read_text())["weights_digest"]
    change_card(changed, weights_digest=digest)
    with pytest.raises(ModelInvalid):
        import_model(database, changed)
    # Weights whose digest only begins with the same digits are refused as well.
    with database.write() as session:
        session.get_one(Model, model.id).card = model.card | {"weights_digest": "0" * 64}
    with pytest.raises(ModelDiffers) as refused:
        import_model(database, Path(shutil.copytree(database.models_folder / model.name, changed / "same")))
    assert "weights_digest" in str(refused.value)
    assert files_of(database, model.name) == before
    assert actions(database, model) == ["model.import", "model.promote"]


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.4},
        {"temperature": 1.0},
        {"classes": ["NORMAL", "PNEUMONIA"]},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.5, 0.5, 0.5]},
        {"positives": ["NORMAL"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_registered_models_id_with_another_card_is_refused(
    job_table: Database, artefact: Path, changed: Path, fields: dict[str, Any]
) -> None:
    before = files_of(job_table, artefact.name)
    change_card(changed, **fields)
    with pytest.raises(ModelDiffers) as refused:
        import_model(job_table, changed)
    assert str(refused.value).endswith(f"({next(iter(fields))})")
    assert files_of(job_table, artefact.name) == before
    with job_table.read() as session:
        model = champion(session)
        assert (model.threshold, model.card["classes"]) == (0.5, ["PNEUMONIA", "NORMAL"])


def test_the_same_weights_as_another_backbone_are_refused(job_table: Database, changed: Path) -> None:
    with job_table.read() as session:
        digest = champion(session).weights_digest
    change_card(changed, backbone="resnet34", model_id=f"resnet34-{digest[:12]}")
    with pytest.raises(ModelDiffers):
        import_model(job_table, changed)
    assert len([*job_table.models_folder.iterdir()]) == 1


def test_a_repair_restores_the_files_and_is_in_the_audit_log(
    database: Database, model: Model, changed: Path
) -> None:
    before = files_of(database, model.name)
    folder = database.models_folder / model.name
    (folder / WEIGHTS_FILE).write_bytes(b"damaged")
    change_card(folder, threshold=0.1)
    (folder / ".0123456789abcdef.partial").write_bytes(b"of an import that was killed")
    change_card(changed, training={"epochs": []}, metrics={})  # the training history is not repaired
    for _ in range(2):
        assert import_model(database, changed).id == model.id
    assert files_of(database, model.name) == before
    assert actions(database, model) == ["model.import", "model.promote", "model.repair"]


def test_concurrent_imports_register_a_model_once(database: Database, artefact: Path) -> None:
    at_once, found = threading.Barrier(4), []

    def bring() -> None:
        at_once.wait()
        found.append(import_model(database, artefact).id)

    threads = [threading.Thread(target=bring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    with database.read() as session:
        assert [event.action for event in session.scalars(select(Event))] == ["model.import"]


#: A program that imports a model and is killed after its files are written and before its row is committed.
DIES = """
import os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from sqlalchemy import event
from db.engine import Database
from db.models.registry import import_model
from db.settings import DatabaseSettings
database = Database(DatabaseSettings(database_url=SecretStr(sys.argv[1])))
event.listen(database.engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
import_model(database, Path(sys.argv[2]))
"""


def test_an_import_that_is_killed_before_its_row_is_committed_can_be_repeated(
    database: Database, database_url: str, artefact: Path
) -> None:
    killed = subprocess.run([sys.executable, "-c", DIES, database_url, str(artefact)], check=False)
    assert killed.returncode == -9
    assert len(files_of(database, artefact.name)) == 2
    with database.read() as session:
        assert session.scalars(select(Model)).all() == []
    model = import_model(database, artefact)
    assert actions(database, model) == ["model.import"]


def test_a_refused_import_does_not_prevent_a_rollback(
    database: Database, model: Model, other_artefact: Path, tmp_path: Path
) -> None:
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
    copy = Path(shutil.copytree(other_artefact, tmp_path / "copy"))
    change_card(copy, threshold=0.1)
    with pytest.raises(ModelDiffers):
        import_model(database, copy)
    with database.write() as session:
        assert rollback(session).name == model.name


def test_a_model_of_an_earlier_preprocessing_that_is_listed_stays_usable(
    database: Database, other_artefact: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(other_artefact, tmp_path / "copy"))
    for unknown in ("squeeze-bilinear-224/3", "squeeze-bilinear-224", "another/1"):
        change_card(copy, preprocessing=unknown)
        with pytest.raises(ModelPreprocessingMismatch):
            import_model(database, copy)
    change_card(copy, preprocessing="squeeze-bilinear-224/1")
    earlier = import_model(database, copy)
    with database.write() as session:
        promote(session, earlier.name)
        assert champion(session).name == earlier.name
        assert registered_card(champion(session)).preprocessing == "squeeze-bilinear-224/1"


def test_a_model_of_another_preprocessing_is_neither_imported_nor_promoted(
    database: Database, model: Model, other_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
        promote(session, model.name)
    monkeypatch.setattr("db.models.card.PREPROCESSING", "another/2")
    with pytest.raises(ModelPreprocessingMismatch) as refused:
        import_model(database, other_artefact)
    assert "another/2" in str(refused.value)
    for change in (lambda session: promote(session, other.name), rollback):
        with pytest.raises(ModelPreprocessingMismatch), database.write() as session:
            change(session)
    with database.read() as session:
        assert champion(session).name == model.name


@pytest.mark.usefixtures("model")
def test_a_candidate_passes_only_after_the_gate_said_yes_and_a_former_champion_always(
    database: Database, model: Model, other_artefact: Path
) -> None:
    other = import_model(database, other_artefact)
    with pytest.raises(GateNotPassed, match="never compared"), database.read() as session:
        check_gate(session, other)
    for answer in ("yes", "no"):
        with database.write() as session:
            record(session, f"gate.{answer}", f"model:{other.id}", reasons=["worse calibrated"])
            if answer == "yes":
                check_gate(session, other)
    with pytest.raises(GateNotPassed, match="worse calibrated"), database.write() as session:
        check_gate(session, other)
    with database.write() as session:
        promote(session, other.name)
        check_gate(session, champion(session))
        check_gate(session, session.get_one(Model, model.id, populate_existing=True))
