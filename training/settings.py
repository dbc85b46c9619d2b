"""Settings of retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class TrainingSettings(RoomSettings):
    """Retraining by itself."""

    #: Images newly labelled since the champion was registered that start a run; 0 means never. A fifth is
    #: held out, so fewer than some hundreds cannot tell a challenger from the champion.
    retrain_new_labels: Annotated[int, Field(ge=0)] = 0
    #: Folder with labelled images that such a run uses beside the imported labels. Empty: none.
    retrain_data: str = ""
    #: Folder with the initial ImageNet weights. Empty: torchvision's cache.
    weights: str = ""

    #: Seconds without a sign of life after which a run is given to another training worker.
    training_lease_seconds: Annotated[float, Field(gt=0)] = 60.0

    @property
    def data_folder(self) -> Path | None:
        """The folder with labelled images, if there is one."""
        return Path(self.retrain_data) if self.retrain_data else None

    @property
    def weights_folder(self) -> Path | None:
        """The folder of initial weights, if it is not torchvision's cache."""
        return Path(self.weights) if self.weights else None
