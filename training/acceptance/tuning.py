"""The tuning of a model for a site: a version of the same weights with a temperature and threshold for it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from db.atomic import needs_room
from db.engine import Database
from db.models.card import FasterPrecision, ModelCard, tuned_id_of
from db.models.registry import import_model
from db.models.store import CARD_FILE
from training.acceptance.measurement import SiteImages
from training.data.splits import TooFewLabelled
from training.evaluation.cross_fitting import CrossFitting, logits_of, plan_cross_fitting
from training.evaluation.measures import area_under_roc, rates
from training.evaluation.promotion import Decision
from training.fitting.calibration import Calibration, calibrate
from training.outcome import Answers
from training.plan import Promote
from training.recipe import RECIPES, RecipeName
from training.run.gate import Challenger, apply_decision, compare_with_champion

#: The largest error of a number format, in log odds, that a card can say.
_LARGEST_ERROR = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A version of a model that was tuned for a site, and what the gate said of it."""

    card: ModelCard
    #: Its answers on the images of the site; each image is judged by a tuning that other patients fitted.
    answers: Answers
    #: None if it is the champion itself.
    decision: Decision | None
    promoted: bool

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        decision = self.decision
        return {
            "model": self.card.model_id,
            "temperature": self.card.temperature,
            "threshold": self.card.threshold,
            "gate": None if decision is None else {"passed": decision.passed, "reasons": decision.reasons},
            "promoted": self.promoted,
        }


def tune(database: Database, site: SiteImages, *, target_sensitivity: float, promote: Promote) -> Tuned:
    """Fit temperature and threshold on a site's images, register the version, and ask the gate.

    What it measures is cross-fitted over patients. The weights and all other files of the model are copied.
    Raises TooFewLabelled if a class has fewer than two patients; ModelMissing, ModelInvalid, DiskFull.
    """
    fitting, logits = _plan(site, target_sensitivity), logits_of(site.probabilities, site.card.temperature)
    images = site.images
    calibration = calibrate(logits, images.truth, images.classes, target_sensitivity)
    own = Answers(
        "", calibration.probabilities(logits)[:, images.positive_columns].sum(axis=1), calibration.threshold
    )
    answers = fitting.refitted(own, logits, images)
    card = _card(site, calibration, answers, target_sensitivity)
    _register(database, site.card, card)
    answers = replace(answers, model=card.model_id)
    challenger = Challenger(answers=answers, wanted=target_sensitivity)
    challenge = compare_with_champion(database, challenger, images)
    with database.write() as session:
        decision, promoted = apply_decision(session, challenge, how=promote)
    return Tuned(card=card, answers=answers, decision=decision, promoted=promoted)


def _plan(site: SiteImages, target_sensitivity: float) -> CrossFitting:
    """Divide the images by patient, with the seed of the clinical recipe. Raises TooFewLabelled."""
    recipe = replace(RECIPES[RecipeName.CLINICAL], target_sensitivity=target_sensitivity)
    fitting = plan_cross_fitting(site.images, recipe)
    if fitting.fold is None:
        raise TooFewLabelled("a class has fewer than two patients")
    return fitting


def _card(
    site: SiteImages, calibration: Calibration, answers: Answers, target_sensitivity: float
) -> ModelCard:
    """Return the card of the version: it says that it was tuned, on what, and from which model."""
    images, before = site.images, site.card
    tuning: dict[str, JsonValue] = {
        "from": before.model_id,
        "images": len(images.truth),
        "data_fingerprint": site.fingerprint,
        "target_sensitivity": target_sensitivity,
    }
    positive = images.positive
    sensitivity, specificity, accuracy = rates(positive, answers.called)
    measured = {
        "n": len(positive),
        "auc": asdict(area_under_roc(positive, answers.score, images.groups)),
        "sensitivity": asdict(sensitivity),
        "specificity": asdict(specificity),
        "accuracy": asdict(accuracy),
        "threshold": calibration.threshold,
    }
    tuned = before.model_copy(
        update={
            **asdict(calibration),
            "precisions": _precisions(before, calibration.temperature),
            "training": before.training | {"tuned": tuning},
            "metrics": before.metrics | {"validation": measured},
        }
    )
    return ModelCard.model_validate(tuned.model_dump() | {"model_id": tuned_id_of(tuned)})


def _precisions(card: ModelCard, temperature: float) -> dict[str, FasterPrecision]:
    """Return what the card says of number formats: log odds, and their errors, are divided by a temperature.

    That holds for two classes. With more of them the version screens in single precision.
    """
    if len(card.classes) > 2:
        return {}
    scale = card.temperature / temperature
    return {
        name: FasterPrecision.model_validate(one.model_dump() | {"error": one.error * scale})
        for name, one in card.precisions.items()
        # A format that may be so far off is of no use.
        if one.error * scale <= _LARGEST_ERROR
    }


def _register(database: Database, before: ModelCard, card: ModelCard) -> None:
    with tempfile.TemporaryDirectory(prefix="pneumoscreen-tuned-") as parent, needs_room():
        folder = Path(parent) / card.model_id
        shutil.copytree(database.models_folder / before.model_id, folder, symlinks=True)
        (folder / CARD_FILE).write_bytes(card.as_file())
        import_model(database, folder)
