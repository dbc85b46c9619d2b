"""The registry: the models, and which of them is champion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit.events import record
from db.engine import Database, insert_new
from db.errors import PneumoscreenError
from db.models.card import ADDED_LATER, ModelCard, parse_card
from db.models.store import place_model, read_card, read_checked_statistics, read_checked_weights
from db.states import ModelState
from db.tables import Event, Model
from db.text import is_text
from db.transitions import ModelChange, change


class ModelUnknown(PneumoscreenError):
    """No registered model has this id. `pneumoscreen models list` lists the ids."""

    code = "model-unknown"


class NoChampion(PneumoscreenError):
    """No model is champion, so nothing can be screened. `pneumoscreen up` registers the default."""

    code = "no-champion"


class NothingToRollBack(PneumoscreenError):
    """There was no champion before this one. `pneumoscreen models list` shows what could be promoted."""

    code = "nothing-to-roll-back"


class ModelDiffers(PneumoscreenError):
    """This model's id is registered with another card, which is kept. Import that one, or use another seed.

    The id is made of the weights, so that one id stands for one threshold, one preprocessing and one order
    of classes. `pneumoscreen models show ID` prints the registered card; `pneumoscreen accept DATA --tune`
    makes a version with another threshold, which has an id of its own. `detail` names the fields that differ.
    """

    code = "model-differs"


class GateNotPassed(PneumoscreenError):
    """The gate has not found the model as good as the champion. To promote it all the same, give --yes."""

    code = "gate-not-passed"


#: Actions in the audit log.
_PROMOTE, _ROLLBACK = "model.promote", "model.rollback"
#: Actions by which a training run records what the gate says about a model.
_GATE_YES, _GATE_NO = "gate.yes", "gate.no"


def import_model(database: Database, folder: Path) -> Model:
    """Check an artefact, register it as a candidate and copy it into the models folder.

    Safe to repeat: a model that is registered already is returned as it is, and damaged files of it are
    replaced. Only what its card lacks of faster number formats, familiarity and intended use is taken over.
    If the artefact cannot be registered, no file is changed.
    Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelDiffers,
    DiskFull.
    """
    # The folder may be named by a link. Inside it links are refused.
    folder = folder.resolve()
    card = read_card(folder)
    card.check_preprocessing()
    weights = read_checked_weights(folder, card.weights_digest)
    statistics = read_checked_statistics(folder, card)
    # The files are placed before the row is committed. If the process is killed in between, no row names them
    # and the next import replaces them. In the other order a row would be left without files.
    with database.write() as session:
        model, is_new = _register(session, card)
        registered = registered_card(model)
        if differing := registered.differences(card):
            raise ModelDiffers(", ".join(differing))
        completed = registered.completed(card)
        if completed != registered:
            model.card = completed.model_dump(mode="json")
        repaired = place_model(database.models_folder / model.name, completed, weights, statistics)
        if is_new:
            record(session, "model.import", f"model:{model.id}", digest=card.weights_digest)
        elif repaired:
            record(session, "model.repair", f"model:{model.id}", files=[*repaired])
        return model


def _register(session: Session, card: ModelCard) -> tuple[Model, bool]:
    """Return the row of a card's id, and whether it was added. A second import of the same model waits.

    Versions of the same weights have ids, and so temperatures and thresholds, of their own. Raises
    ModelDiffers if the weights are registered for another backbone.
    """
    same = select(Model.id).where(
        Model.weights_digest == card.weights_digest, Model.backbone != card.backbone
    )
    if session.scalar(same.limit(1)) is not None:
        raise ModelDiffers("backbone")
    values = {
        "name": card.model_id,
        "backbone": card.backbone,
        "weights_digest": card.weights_digest,
        "threshold": card.threshold,
        "card": card.model_dump(mode="json"),
        "state": ModelChange.REGISTER.to,
    }
    added = session.scalar(insert_new(session, Model).values(values).returning(Model.id))
    model = session.scalars(select(Model).where(Model.name == card.model_id).with_for_update()).one()
    return model, added is not None


def ensure_champion(database: Database, default: Path) -> Model:
    """Return the champion. If there is none yet, import the default model and promote it.

    A default model that an earlier version registered is imported again if this version's card says more.
    """
    with database.read() as session:
        champion = find_champion(session)
    if champion is not None and not _lacks(champion, default):
        return champion
    model = import_model(database, default)
    with database.write() as session:
        champion = find_champion(session)
        return champion if champion is not None else promote(session, model.name)


def _lacks(champion: Model, default: Path) -> bool:
    """Tell whether the champion is the default model, with a card that says less than the default's."""
    card = read_card(default)
    # Its card may be one that no version can read.
    lacking = [name for name in ADDED_LATER if getattr(card, name) and not champion.card.get(name)]
    return champion.name == card.model_id and bool(lacking)


def find_champion(session: Session) -> Model | None:
    """Return the champion, if there is one."""
    return session.scalar(select(Model).where(Model.state == ModelState.CHAMPION))


def champion(session: Session) -> Model:
    """Return the champion, or raise NoChampion."""
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

    The file beside the weights is not read: a change to it does not move the threshold.
    """
    return parse_card(json.dumps(model.card).encode())


def lock_if_champion(session: Session, name: str) -> bool:
    """Tell whether a model is champion. If so, no other is promoted before the transaction ends."""
    query = select(Model.id).where(Model.name == name, Model.state == ModelState.CHAMPION)
    return session.scalar(query.with_for_update()) is not None


def check_gate(session: Session, model: Model) -> None:
    """Raise GateNotPassed for a candidate that the gate never compared, or to which it last said no.

    A model that is or was champion passes.
    """
    if model.state is not ModelState.CANDIDATE:
        return
    of_model = Event.subject == f"model:{model.id}", Event.action.in_((_GATE_YES, _GATE_NO))
    last = session.scalar(select(Event).where(*of_model).order_by(Event.id.desc()).limit(1))
    if last is None:
        raise GateNotPassed("it was never compared with a champion on the same images")
    if last.action == _GATE_NO:
        raise GateNotPassed("; ".join(last.detail["reasons"]))


def promote(session: Session, name: str, *, actor: str | None = None) -> Model:
    """Make a model champion and retire the champion before it. Batches that exist keep their model.

    Safe to repeat. Raises ModelUnknown, ModelInvalid, ModelPreprocessingMismatch.
    """
    model = find_model(session, name)
    if model.state is not ModelState.CHAMPION:
        _make_champion(session, model, _PROMOTE, actor)
    return model


def rollback(session: Session, *, actor: str | None = None) -> Model:
    """Make the previous champion champion again. Each further call goes back by one more.

    Raises NothingToRollBack, ModelInvalid, ModelPreprocessingMismatch.
    """
    champions: list[int] = []
    query = select(Event).where(Event.action.in_((_PROMOTE, _ROLLBACK))).order_by(Event.id)
    for event in session.scalars(query):
        if event.action == _ROLLBACK:
            champions.pop()
        else:
            champions.append(int(event.subject.removeprefix("model:")))
    if len(champions) < 2:
        raise NothingToRollBack
    model = session.get_one(Model, champions[-2])
    _make_champion(session, model, _ROLLBACK, actor)
    return model


def _make_champion(session: Session, model: Model, action: str, actor: str | None) -> None:
    registered_card(model).check_preprocessing()
    before = find_champion(session)
    change(session, Model, ModelChange.RETIRE)
    ModelChange.PROMOTE.apply(model)
    replaced = before.name if before is not None else None
    record(session, action, f"model:{model.id}", actor=actor, before=replaced)
    session.flush()


def all_models(session: Session) -> Sequence[Model]:
    """Return every model, the latest first."""
    return session.scalars(select(Model).order_by(Model.id.desc())).all()


def model_events(session: Session, model: Model) -> Sequence[Event]:
    """Return the events of a model, the oldest first."""
    query = select(Event).where(Event.subject == f"model:{model.id}").order_by(Event.id)
    return session.scalars(query).all()
