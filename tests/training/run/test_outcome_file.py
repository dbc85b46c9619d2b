"""The file of a backbone's outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.outcome import BackboneOutcome, EpochResult
from training.run.outcome_file import read_outcome, write_outcome

OUTCOME = BackboneOutcome(
    backbone="resnet18",
    seed=42,
    model_id="resnet18-0123456789ab",
    epochs=(EpochResult(epoch=0, train_loss=0.1, valid_loss=0.2, accuracy=0.9),),
    probabilities=np.array([[0.1, 0.9], [1 / 3, 2 / 3]]),
    temperature=1.25,
    threshold=0.4,
    seconds=3.0,
    peak_memory_bytes=1,
    initial_weights_digest=None,
)


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_outcome(tmp_path / "resnet18-42" / "outcome.json", OUTCOME)
    found = read_outcome(tmp_path / "resnet18-42" / "outcome.json")
    assert found is not None
    assert np.array_equal(found.probabilities, OUTCOME.probabilities)
    same = replace(found, probabilities=OUTCOME.probabilities)
    assert same == OUTCOME


def test_an_outcome_that_is_missing_or_cut_off_is_none(tmp_path: Path) -> None:
    file = tmp_path / "outcome.json"
    assert read_outcome(file) is None
    write_outcome(file, OUTCOME)
    content = file.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert read_outcome(file) is None
    file.write_text('{"backbone": "resnet18"}')
    assert read_outcome(file) is None
