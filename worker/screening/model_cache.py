"""The learners that a worker process keeps in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from db.engine import Database
from db.models.registry import registered_card
from db.tables import Model
from worker.runtime.torch import ResidentLearner

#: Learners kept at a time: a champion and the one that replaces it, while batches of both are under way.
_KEPT = 2


class Residents:
    """Learners by registered model, loaded at first use and kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._learners: OrderedDict[int, ResidentLearner] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model_id: int) -> ResidentLearner:
        """Return the learner of a model.

        Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit,
        DeviceUnusable.
        """
        with self._lock:
            if model_id not in self._learners:
                self._learners[model_id] = self._load(model_id)
            self._learners.move_to_end(model_id)
            while len(self._learners) > _KEPT:
                self._learners.popitem(last=False)
            return self._learners[model_id]

    def _load(self, model_id: int) -> ResidentLearner:
        with self._database.read() as session:
            model = session.get_one(Model, model_id)
        return ResidentLearner.load(
            self._database.models_folder / model.name,
            digest=model.weights_digest,
            card=registered_card(model),
        )
