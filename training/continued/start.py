"""The registered model that a training goes on from."""

from __future__ import annotations

from sqlalchemy.orm import Session

from db.engine import Database
from db.errors import PneumoscreenError
from db.models.card import ModelCard
from db.models.registry import champion, find_model, registered_card
from db.models.store import WEIGHTS_FILE, read_checked_weights
from training.fitting.backbones import InitialWeights
from worker.runtime.torch.normalisation import IMAGENET_MEAN, IMAGENET_STD

#: The name by which `retrain --from` finds the champion of the moment.
CHAMPION = "champion"


class StartUnfit(PneumoscreenError):
    """A training cannot go on from this model: it normalises pictures in another way. Train from ImageNet."""

    code = "start-unfit"


def find_start(session: Session, name: str) -> ModelCard:
    """Return the card of the model with an id, or of the champion.

    Raises ModelUnknown, NoChampion, ModelInvalid, ModelPreprocessingMismatch, StartUnfit.
    """
    model = champion(session) if name == CHAMPION else find_model(session, name)
    card = registered_card(model)
    card.check_preprocessing()
    if (card.mean, card.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise StartUnfit(card.model_id)
    return card


def weights_of(database: Database, name: str) -> InitialWeights:
    """Return the weights of a registered model, after a check of their digest, to go on from.

    Raises what `find_start` does; ModelMissing, ModelDigestMismatch.
    """
    with database.read() as session:
        card = find_start(session, name)
    folder = database.models_folder / card.model_id
    read_checked_weights(folder, card.weights_digest)
    return InitialWeights(folder / WEIGHTS_FILE, model=card.model_id)
