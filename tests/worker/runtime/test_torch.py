"""Probabilities of screening against those of fastai; model files that must not be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from db.models.card import ModelInvalid, model_id_of
from db.models.store import WEIGHTS_FILE, ModelDigestMismatch, ModelMissing, digest_of, read_card
from tests.pictures import read_picture
from training.data.classes import CLASSES
from worker.phantoms import write_phantoms
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of
from worker.runtime.protocol import ModelWeightsUnfit, Precision
from worker.runtime.torch.artifact import pack_weights, write_artifact
from worker.runtime.torch.runtime import build_network, load_network
from worker.torchvision_pair import import_torchvision

CPU = torch.device("cpu")


def fastai_probabilities(files: list[Path], folder: Path, *, channels_last: bool) -> np.ndarray:
    """Predict files as a fastai user would: DataBlock, Resize, Normalize, get_preds."""
    import_torchvision()
    from fastai.vision.all import (
        CategoryBlock,
        CrossEntropyLossFlat,
        DataBlock,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        ResizeMethod,
    )

    card = read_card(folder)
    network = load_network(card, (folder / WEIGHTS_FILE).read_bytes())
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(card.classes))),
        get_y=lambda _: "NORMAL",
        item_tfms=Resize(224, method=ResizeMethod.Squish),
        batch_tfms=Normalize.from_stats(card.mean, card.std),
    )
    loaders = block.dataloaders(files * 2, bs=16, num_workers=0, device=CPU)
    learner = Learner(loaders, network, loss_func=CrossEntropyLossFlat())
    if channels_last:
        network.to(memory_format=torch.channels_last)
    with learner.no_bar():
        logits, _ = learner.get_preds(dl=loaders.test_dl(files, bs=16, num_workers=0), act=lambda x: x)
    return (logits / card.temperature).softmax(dim=1).numpy()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write JPEG and PNG phantoms, which fastai reads too."""
    folder = tmp_path_factory.mktemp("files")
    write_phantoms(folder, 30)
    found = sorted([*folder.rglob("*.jpeg"), *(p for p in folder.rglob("*.png") if "16bit" not in p.name)])
    return whole_passes(found)


def whole_passes(files: list[Path]) -> list[Path]:
    """Repeat files until their number is a multiple of 16, as fastai does not fill up its last batch."""
    return (files * 16)[: -(-len(files) // 16) * 16]


def screened(files: list[Path], folder: Path) -> np.ndarray:
    runtime = load_model(folder, device="cpu")
    return outputs_of(runtime, np.stack([read_picture(file).pixels for file in files]), size=16).probabilities


def test_probabilities_are_fastais_to_the_last_bit(files: list[Path], artefact: Path) -> None:
    ours = screened(files, artefact)
    assert np.abs(ours - fastai_probabilities(files, artefact, channels_last=True)).max() == 0.0


def test_the_memory_format_alone_changes_probabilities_by_rounding_only(
    files: list[Path], artefact: Path
) -> None:
    ours = screened(files, artefact)
    assert np.abs(ours - fastai_probabilities(files, artefact, channels_last=False)).max() < 1e-5


@pytest.mark.shared
def test_probabilities_of_real_radiographs_are_fastais_to_the_last_bit(shared: Path, artefact: Path) -> None:
    files = whole_passes(sorted((shared / "chest_xray_original").rglob("*.jpeg"))[::8])
    ours = screened(files, artefact)
    assert np.abs(ours - fastai_probabilities(files, artefact, channels_last=True)).max() == 0.0


def test_a_learner_gives_probabilities_that_add_up_to_one(artefact: Path, random_pixels: np.ndarray) -> None:
    runtime = load_model(artefact, device="cpu")
    rows = runtime.forward(random_pixels, Precision.FP32).probabilities
    assert rows.shape == (8, 2)
    assert rows.dtype == np.float32
    assert rows.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-6)
    assert runtime.card.positive_columns == [0]
    assert CLASSES.index("PNEUMONIA") == 1


def test_bf16_agrees_roughly(artefact: Path, random_pixels: np.ndarray) -> None:
    runtime = load_model(artefact, device="cpu")
    single = runtime.forward(random_pixels, Precision.FP32).probabilities
    half = runtime.forward(random_pixels, Precision.BF16).probabilities
    assert 0 < np.abs(single - half).max() < 0.05


def test_every_backbone_of_the_thesis_can_be_built() -> None:
    for backbone in ("resnet18", "resnet34", "resnet50", "alexnet"):
        assert build_network(backbone, 2).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 2)


def test_a_missing_model_is_refused(tmp_path: Path, artefact: Path) -> None:
    with pytest.raises(ModelMissing):
        load_model(tmp_path / "nowhere")
    (tmp_path / "model.json").write_bytes((artefact / "model.json").read_bytes())
    with pytest.raises(ModelMissing):
        load_model(tmp_path)


def copy(artefact: Path, to: Path, weights: bytes) -> Path:
    to.mkdir()
    (to / "model.json").write_bytes((artefact / "model.json").read_bytes())
    (to / WEIGHTS_FILE).write_bytes(weights)
    return to


def test_truncated_or_swapped_weights_are_refused_before_use(tmp_path: Path, artefact: Path) -> None:
    weights = (artefact / WEIGHTS_FILE).read_bytes()
    swapped = bytearray(weights)
    swapped[-1] ^= 1
    for name, content in {"truncated": weights[:-1], "swapped": bytes(swapped), "empty": b""}.items():
        with pytest.raises(ModelDigestMismatch):
            load_model(copy(artefact, tmp_path / name, content))


def test_a_pickle_is_never_loaded_even_with_the_right_digest(tmp_path: Path, artefact: Path) -> None:
    pickle = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    folder = copy(artefact, tmp_path / "pickle", pickle)
    with pytest.raises(ModelInvalid):
        load_model(folder, digest=digest_of(pickle))


def test_weights_of_another_architecture_are_refused(tmp_path: Path, artefact: Path) -> None:
    weights = pack_weights(build_network("alexnet", 2).state_dict())
    digest = digest_of(weights)
    renamed = {"weights_digest": digest, "model_id": model_id_of("resnet18", digest)}
    card = read_card(artefact).model_copy(update=renamed)
    write_artifact(tmp_path / "alexnet", card, weights)
    with pytest.raises(ModelWeightsUnfit):
        load_model(tmp_path / "alexnet")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["NORMAL", "SICK"]},
        {"classes": ["PNEUMONIA", "PNEUMONIA"]},
        {"threshold": 1.5},
        {"temperature": 0},
        {"backbone": "../resnet50"},
        {"model_id": "../../etc"},
        {"surprise": 1},
    ],
)
def test_a_card_with_an_invalid_value_is_refused(tmp_path: Path, artefact: Path, change: dict) -> None:
    import json

    folder = copy(artefact, tmp_path / "card", (artefact / WEIGHTS_FILE).read_bytes())
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | change))
    with pytest.raises(ModelInvalid):
        read_card(folder)
