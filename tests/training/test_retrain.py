"""From a labelled folder to a model that screens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from db.model_card import WEIGHTS_FILE, digest_of, read_card
from training.backbones import InitialWeightsMissing, InitialWeightsUnfit, pretrained_network
from training.evaluation import evaluate
from training.recipe import RECIPES, RecipeName, RecipeUnknown, find_recipe
from training.retrain import retrain
from worker.imaging import PREPROCESSING
from worker.learner import ResidentLearner, build_network
from worker.torchvision_pair import import_torchvision


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights in the layout of torchvision's ImageNet ones."""
    import torch

    import_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("weights")
    save_file(resnet18().state_dict(), folder / "resnet18-imagenet.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw two classes that anything can tell apart: dark and bright noise."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(4)
    for label, level in (("NORMAL", 60), ("PNEUMONIA", 180)):
        (folder / label).mkdir()
        for number in range(40):
            pixels = np.clip(random.normal(level, 20, (96, 96)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def test_a_challenger_is_trained_calibrated_and_described(data: Path, weights: Path, tmp_path: Path) -> None:
    epochs = []
    recipe = replace(RECIPES[RecipeName.CLINICAL], epochs=2, batch_size=16)
    challenger = retrain(
        data, backbone="resnet18", recipe=recipe, weights=weights, out=tmp_path, on_epoch=epochs.append
    )
    card = read_card(challenger.folder)
    assert card == challenger.card
    assert card.weights_digest == digest_of((challenger.folder / WEIGHTS_FILE).read_bytes())
    assert card.preprocessing == PREPROCESSING
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert card.training["images"] == 80
    assert card.training["held_out"] == 16
    validation = card.metrics["validation"]
    assert isinstance(validation, dict)
    found = evaluate(data, challenger.folder)
    assert found.measures.n == 80
    assert found.measures.auc.value is not None
    assert found.measures.auc.value > 0.95
    assert found.measures.threshold == card.threshold


def test_unreadable_images_are_counted_and_left_out(data: Path, artefact: Path, tmp_path: Path) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for number in range(3):
            source = data / label / f"{number}.png"
            (tmp_path / label / source.name).write_bytes(source.read_bytes())
    (tmp_path / "NORMAL" / "broken.jpg").write_text("not an image")
    found = evaluate(tmp_path, artefact)
    assert (found.measures.n, found.unreadable) == (6, 1)


def test_the_body_starts_from_the_given_weights(weights: Path) -> None:
    import torch
    from safetensors.torch import load_file

    file = weights / "resnet18-imagenet.safetensors"
    network = pretrained_network("resnet18", 2, file)
    state, given = network.state_dict(), load_file(file)
    assert torch.equal(state["0.0.weight"], given["conv1.weight"])
    assert torch.equal(state["0.7.1.bn2.running_var"], given["layer4.1.bn2.running_var"])


def test_missing_or_foreign_weights_are_refused_before_the_first_epoch(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    recipe = RECIPES[RecipeName.THESIS]
    with pytest.raises(InitialWeightsMissing, match=r"resnet34-imagenet\.safetensors"):
        retrain(data, backbone="resnet34", recipe=recipe, weights=weights, out=tmp_path)
    (tmp_path / "resnet34-imagenet.safetensors").write_bytes(
        (weights / "resnet18-imagenet.safetensors").read_bytes()
    )
    with pytest.raises(InitialWeightsUnfit):
        retrain(data, backbone="resnet34", recipe=recipe, weights=tmp_path, out=tmp_path)


def test_recipes_are_found_by_name() -> None:
    assert find_recipe("thesis").epochs == 20
    assert find_recipe("thesis").batch_size == 20
    with pytest.raises(RecipeUnknown):
        find_recipe("best")


@pytest.mark.shared
def test_the_shipped_model_tells_real_radiographs_apart(shared: Path) -> None:
    from deploy.models import default_model

    found = evaluate(shared / "chest_xray_original", default_model())
    assert (found.measures.n, found.unreadable) == (120, 0)
    assert found.measures.auc.value is not None
    assert found.measures.auc.value > 0.97


def test_the_shipped_model_is_whole_and_says_where_it_comes_from() -> None:
    from deploy.models import default_model

    folder = default_model()
    learner = ResidentLearner.load(folder)
    assert learner.card.backbone == "resnet50"
    assert learner.card.preprocessing == PREPROCESSING
    assert folder.name == learner.card.model_id
    text = (folder / "README.md").read_text()
    for fact in (learner.card.model_id, "CC BY 4.0", "10.17632/rscbjbr9sj", "Not a medical device"):
        assert fact in text
    assert sum(p.numel() for p in build_network("resnet50", 2).parameters()) > 25_000_000
