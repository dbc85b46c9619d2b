"""The registry: which models there are, and which one screens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.atomic import needs_room, remove_partials, write_whole
from db.audit.events import record
from db.engine import Database, insert_new
from db.errors import PneumoscreenError
from db.models.card import (
    CARD_FILE,
    WEIGHTS_FILE,
    ModelCard,
    parse_card,
    read_card,
    read_checked_weights,
)
from db.states import ModelState
from db.tables import Event, Model
from db.text import is_text
from db.transitions import ModelChange, change


class ModelUnknown(PneumoscreenError):
    """No registered model has this id. `pneumoscreen doctor` names the champion."""

    code = "model-unknown"


class NoChampion(PneumoscreenError):
    """No model is champion, so nothing can be screened. `pneumoscreen up` registers the default."""

    code = "no-champion"


class NothingToRollBack(PneumoscreenError):
    """There was no champion before this one. `pneumoscreen models list` shows what could be promoted."""

    code = "nothing-to-roll-back"


class ModelDiffers(PneumoscreenError):
    """These weights are registered with another card, which stays. Import that one, or use another seed.

    The id is made of the weights, so that one id stands for one threshold, one preprocessing and one order
    of classes. `pneumoscreen models show ID` prints the registered card; for another threshold, train with
    another seed. `detail` names the fields that differ.
    """

    code = "model-differs"


#: In the audit log.
_PROMOTE, _ROLLBACK = "model.promote", "model.rollback"


def import_model(database: Database, folder: Path) -> Model:
    """Check an artefact, register it as a candidate and copy it into the models folder.

    Safe to repeat: a model that is registered already is returned as it is, and its files are repaired if
    they were damaged. Of one that cannot be registered no file is touched.
    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelDiffers,
    DiskFull.
    """
    # Whoever imports may name the folder by a link; in it there is none.
    folder = folder.resolve()
    card = read_card(folder)
    card.check_preprocessing()
    weights = read_checked_weights(folder, card.weights_digest)
    # The files are placed before the row is committed: a kill in between leaves files that no row names, and
    # the next import replaces them. The other order would leave a row without its files.
    with database.write() as session:
        model, is_new = _register(session, card)
        registered = registered_card(model)
        if differing := registered.differences(card):
            raise ModelDiffers(", ".join(differing))
        repaired = _place(database.models_folder / model.name, registered, weights)
        if is_new:
            record(session, "model.import", f"model:{model.id}", digest=card.weights_digest)
        elif repaired:
            record(session, "model.repair", f"model:{model.id}", files=[*repaired])
        return model


def _register(session: Session, card: ModelCard) -> tuple[Model, bool]:
    """Return the row of a card's id, and whether it was added; who imports the same meanwhile waits.

    Raises ModelDiffers if its weights are registered under another id.
    """
    values = {
        "name": card.model_id,
        "backbone": card.backbone,
        "weights_digest": card.weights_digest,
        "threshold": card.threshold,
        "card": card.model_dump(mode="json"),
        "state": ModelChange.REGISTER.to,
    }
    added = session.scalar(insert_new(session, Model).values(values).returning(Model.id))
    model = session.scalar(select(Model).where(Model.name == card.model_id).with_for_update())
    if model is None:
        raise ModelDiffers("model_id")
    return model, added is not None


def _place(folder: Path, card: ModelCard, weights: bytes) -> list[str]:
    """Write the files of a model that are not as registered, each whole; return their names.

    A worker that reads a file meanwhile reads the old one or the new one. Raises DiskFull.
    """
    with needs_room():
        if folder.is_symlink() or folder.is_file():
            folder.unlink()  # nothing is written to where a link leads
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_partials(folder)  # whoever imports the same model waits for the row
        placed = []
        try:
            for name, content in ((WEIGHTS_FILE, weights), (CARD_FILE, card.as_file())):
                if not _holds(folder / name, content):
                    with write_whole(folder / name) as file:
                        file.write(content)
                    placed.append(name)
        except OSError:
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    return placed


def _holds(path: Path, content: bytes) -> bool:
    """Tell whether a path is a regular file of this content, and no link to one."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


def ensure_champion(database: Database, default: Path) -> Model:
    """Return the champion; where there is none yet, import the default model and promote it."""
    with database.read() as session:
        champion = find_champion(session)
    if champion is not None:
        return champion
    model = import_model(database, default)
    with database.write() as session:
        champion = find_champion(session)
        return champion if champion is not None else promote(session, model.name)


def find_champion(session: Session) -> Model | None:
    """Return the model that screens, if there is one."""
    return session.scalar(select(Model).where(Model.state == ModelState.CHAMPION))


def champion(session: Session) -> Model:
    """Return the model that screens, or raise NoChampion."""
    found = find_champion(session)
    if found is None:
        raise NoChampion
    return found


def find_model(session: Session, name: str) -> Model:
    """Return a registered model by its id, or raise ModelUnknown."""
    found = session.scalar(select(Model).where(Model.name == name)) if is_text(name) else None
    if found is None:
        raise ModelUnknown
    return found


def registered_card(model: Model) -> ModelCard:
    """Return a model's card as it was registered. Raises ModelInvalid.

    Whoever can write the file beside the weights moves no threshold.
    """
    return parse_card(json.dumps(model.card).encode())


def still_reigns(session: Session, name: str) -> bool:
    """Tell whether a model is champion; if it is, no other becomes it before the transaction ends."""
    query = select(Model.id).where(Model.name == name, Model.state == ModelState.CHAMPION)
    return session.scalar(query.with_for_update()) is not None


def promote(session: Session, name: str) -> Model:
    """Make a model champion and retire the one that was; batches already cut keep their model.

    Safe to repeat. Raises ModelUnknown, ModelInvalid, ModelPreprocessingMismatch.
    """
    model = find_model(session, name)
    if model.state is not ModelState.CHAMPION:
        _crown(session, model, _PROMOTE)
    return model


def rollback(session: Session) -> Model:
    """Make the champion before the present one champion again; as often as there was one.

    Raises NothingToRollBack, ModelInvalid, ModelPreprocessingMismatch.
    """
    reigns: list[int] = []
    query = select(Event).where(Event.action.in_((_PROMOTE, _ROLLBACK))).order_by(Event.id)
    for event in session.scalars(query):
        if event.action == _ROLLBACK:
            reigns.pop()
        else:
            reigns.append(int(event.subject.removeprefix("model:")))
    if len(reigns) < 2:
        raise NothingToRollBack
    model = session.get_one(Model, reigns[-2])
    _crown(session, model, _ROLLBACK)
    return model


def _crown(session: Session, model: Model, action: str) -> None:
    registered_card(model).check_preprocessing()
    before = find_champion(session)
    change(session, Model, ModelChange.RETIRE)
    ModelChange.PROMOTE.apply(model)
    record(session, action, f"model:{model.id}", before=before.name if before is not None else None)
    session.flush()


def all_models(session: Session) -> Sequence[Model]:
    """Return every model, the latest first."""
    return session.scalars(select(Model).order_by(Model.id.desc())).all()


def model_events(session: Session, model: Model) -> Sequence[Event]:
    """Return what the audit log says of a model, oldest first."""
    query = select(Event).where(Event.subject == f"model:{model.id}").order_by(Event.id)
    return session.scalars(query).all()
