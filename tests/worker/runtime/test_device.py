"""The device of torch: its precision, and what people see of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from worker.broker.app import app
from worker.runtime.loading import load_model
from worker.runtime.torch.device import gpus


def test_a_loaded_model_computes_single_precision_as_such(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    load_model(artefact, runtime="torch")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Describe two GPUs to torch, which has none here."""
    found = [
        SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=84_929_216_512),
        SimpleNamespace(name="Tesla T4", total_memory=15_655_829_504),
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)
    return ["NVIDIA H100 80GB HBM3 (79 GiB)", "Tesla T4 (15 GiB)"]


def test_gpus_are_named_with_their_memory(two_gpus: list[str]) -> None:
    assert gpus() == two_gpus


def test_the_self_check_of_doctor_names_them(two_gpus: list[str]) -> None:
    from worker.selfcheck import examine

    assert examine()["torch"]["gpus"] == two_gpus


def test_the_screening_worker_shows_them_in_flower(two_gpus: list[str]) -> None:
    import worker.tasks  # noqa: F401  (which adds the step)

    # Celery's `stats`, which Flower asks for, holds what the steps that a worker includes say.
    included = SimpleNamespace(steps=[])
    for step in app.steps["worker"]:
        step(included).include(included)
    assert {"gpus": two_gpus} in [step.info(included) for step in included.steps]
