"""The gate: a challenger against the champion on the same images, and what follows from the answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.audit.events import record
from db.engine import Database
from db.models.card import ModelCard, ModelPreprocessingMismatch
from db.models.registry import find_champion, find_model, lock_if_champion, promote, registered_card
from training.evaluation.model import predict
from training.evaluation.promotion import (
    Challenge,
    Decision,
    Site,
    decide,
    incomparable,
    outdated,
    without_familiarity,
)
from training.outcome import Answers, HeldOut
from training.plan import Promote
from worker.runtime.loading import load_model
from worker.runtime.protocol import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenger:
    """A candidate at the gate."""

    #: Its answers on the held-out images, whose threshold was fitted on others.
    answers: Answers
    #: Held-out images of the site whose pictures were replayed, which it must not have forgotten.
    former: HeldOut | None = None
    #: The sensitivity that a person asked for, if it was tuned for one.
    wanted: float | None = None


def compare_with_champion(database: Database, challenger: Challenger, held_out: HeldOut) -> Challenge | None:
    """Return whether a candidate may replace the champion; None if there is no other champion.

    Raises ModelMissing, ModelInvalid, ModelDigestMismatch, ModelWeightsUnfit.
    """
    name, former = challenger.answers.model, challenger.former
    with database.read() as session:
        champion = find_champion(session)
        card = registered_card(find_model(session, name))
    if champion is None or champion.name == name:
        return None
    try:
        runtime = _load(database, champion.name, registered_card(champion))
    except ModelPreprocessingMismatch as error:
        # A run must not fail: its winner is what replaces a champion of an earlier version.
        return Challenge(incomparable(name, champion.name, error), None)
    answers = Answers(champion.name, predict(runtime, held_out.pixels), champion.threshold)
    sites = None if former is None else _at(former, runtime, _load(database, name, card))
    decision = decide(challenger.answers, answers, held_out, former=sites, wanted=challenger.wanted)
    if runtime.card.familiarity is not None and card.familiarity is None:
        decision = without_familiarity(decision)
    return Challenge(decision, answers, sites)


def _load(database: Database, name: str, card: ModelCard) -> Runtime:
    return load_model(database.models_folder / name, digest=card.weights_digest, card=card)


def _at(images: HeldOut, champion: Runtime, challenger: Runtime) -> Site:
    """Return the answers of both models on images of the former site."""
    return Site(
        images,
        challenger=Answers(
            challenger.card.model_id, predict(challenger, images.pixels), challenger.card.threshold
        ),
        champion=Answers(champion.card.model_id, predict(champion, images.pixels), champion.card.threshold),
    )


def apply_decision(
    session: Session, challenge: Challenge | None, *, how: Promote, run: int | None = None
) -> tuple[Decision | None, bool]:
    """Record a decision and act on it; return it as it holds now, and whether the challenger is champion."""
    if challenge is None:
        return None, False
    decision = challenge.decision
    if not lock_if_champion(session, decision.champion):
        log.warning("another model became champion during the comparison", extra={"run": run})
        decision = outdated(decision)
    record(
        session,
        "gate.yes" if decision.passed else "gate.no",
        f"model:{find_model(session, decision.challenger).id}",
        champion=decision.champion,
        reasons=list(decision.reasons),
        run=run,
    )
    promoted = decision.passed and how == "auto"
    if promoted:
        promote(session, decision.challenger)
    return decision, promoted
