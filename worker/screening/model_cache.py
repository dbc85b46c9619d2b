"""The models that a worker process keeps in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from db.engine import Database
from db.models.registry import registered_card
from db.tables import Model
from worker.runtime.loading import REFERENCE, load_model
from worker.runtime.precision import LoadedModel
from worker.trust.familiarity import load_statistics

#: Models kept at a time: a champion and the one that replaces it, while batches of both are running.
_KEPT = 2


class ModelCache:
    """Loaded models by the id of their row. A model is loaded when it is first used."""

    def __init__(self, database: Database, *, runtime: str = REFERENCE) -> None:
        self._database = database
        self._runtime = runtime
        self._loaded: OrderedDict[int, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model_id: int) -> LoadedModel:
        """Return a model.

        Raises ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch, ModelWeightsUnfit,
        DeviceUnusable.
        """
        with self._lock:
            if model_id not in self._loaded:
                self._loaded[model_id] = self._load(model_id)
            self._loaded.move_to_end(model_id)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[model_id]

    def _load(self, model_id: int) -> LoadedModel:
        with self._database.read() as session:
            model = session.get_one(Model, model_id)
        folder, card = self._database.models_folder / model.name, registered_card(model)
        runtime = load_model(folder, card=card, digest=model.weights_digest, runtime=self._runtime)
        return LoadedModel(runtime, load_statistics(folder, card))
