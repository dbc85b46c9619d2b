"""The file of a backbone's outcome: what a resumed run does not train again."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from db.atomic import write_whole
from training.outcome import BackboneOutcome, EpochResult

log = logging.getLogger(__name__)


def write_outcome(file: Path, outcome: BackboneOutcome) -> None:
    """Write an outcome as JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = asdict(replace(outcome, probabilities=None))  # type: ignore[arg-type]
    with write_whole(file) as out:
        out.write(json.dumps(content | {"probabilities": outcome.probabilities.tolist()}).encode())


def read_outcome(file: Path) -> BackboneOutcome | None:
    """Return the outcome of an earlier try; None if there is none that can be read."""
    try:
        content = json.loads(file.read_text())
        return BackboneOutcome(
            **content
            | {
                "epochs": tuple(EpochResult(**epoch) for epoch in content["epochs"]),
                "probabilities": np.array(content["probabilities"], dtype=np.float64),
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("an outcome cannot be read (%s), so its backbone is trained again", type(error).__name__)
        return None
