"""Settings of retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from db.settings import RoomSettings


class TrainingSettings(RoomSettings):
    """Automatic retraining."""

    #: The number of images with new labels since the champion was registered that starts a run; 0 means
    #: never. A fifth is held out: with less than a few hundred, a comparison with the champion shows nothing.
    retrain_new_labels: Annotated[int, Field(ge=0)] = 0
    #: Folder with labelled images that such a run uses beside the imported labels. Empty: none.
    retrain_data: str = ""
    #: Folder with the initial ImageNet weights. Empty: torchvision's cache.
    weights: str = ""

    #: Seconds without a heartbeat after which another training worker may claim a run.
    training_lease_seconds: Annotated[float, Field(gt=0)] = 60.0

    @property
    def data_folder(self) -> Path | None:
        """The folder with labelled images, if there is one."""
        return Path(self.retrain_data) if self.retrain_data else None

    @property
    def weights_folder(self) -> Path | None:
        """The folder of initial weights, if it is not torchvision's cache."""
        return Path(self.weights) if self.weights else None
