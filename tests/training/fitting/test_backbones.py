"""Initial weights: their files, the checks of these, and the network that starts from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.fitting.backbones import (
    PUBLISHED,
    RANDOM_WEIGHTS,
    BackboneUnknown,
    InitialWeights,
    InitialWeightsMissing,
    InitialWeightsUnfit,
    find_all_initial_weights,
    find_initial_weights,
    initial_network,
)
from training.recipe import BACKBONES
from worker.torchvision_pair import import_torchvision


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights in the layout of torchvision's ImageNet ones."""
    import_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("weights")
    save_file(resnet18().state_dict(), folder / "resnet18-imagenet.safetensors")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty cache for torchvision."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"), raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_the_body_starts_from_the_given_weights(weights: Path) -> None:
    network = initial_network("resnet18", 2, find_initial_weights("resnet18", weights))
    state, given = network.state_dict(), load_file(weights / "resnet18-imagenet.safetensors")
    assert torch.equal(state["0.0.weight"], given["conv1.weight"])
    assert torch.equal(state["0.7.1.bn2.running_var"], given["layer4.1.bn2.running_var"])


def test_every_backbone_can_start_from_random_weights() -> None:
    for backbone in BACKBONES:
        assert initial_network(backbone, 3, RANDOM_WEIGHTS).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert RANDOM_WEIGHTS.digest is None


def test_all_missing_files_are_named_at_once_with_place_size_and_digest(weights: Path, cache: Path) -> None:
    with pytest.raises(InitialWeightsMissing) as raised:
        find_all_initial_weights(BACKBONES, weights)
    said = str(raised.value)
    assert (
        f"into {weights}: https://download.pytorch.org/models/resnet34-b627a593.pth, 87 MB, SHA-256" in said
    )
    assert "resnet18" not in said, "its file is there"
    for backbone in ("resnet34", "resnet50", "alexnet"):
        assert str(PUBLISHED[backbone]) in said
    with pytest.raises(InitialWeightsMissing, match="checkpoints"):
        find_initial_weights("resnet34", None)
    with pytest.raises(BackboneUnknown):
        find_initial_weights("vgg", weights)


def test_backbones_with_random_weights_need_no_file(weights: Path) -> None:
    found = find_all_initial_weights(("resnet18", "alexnet"), weights, random=("alexnet",))
    assert found["alexnet"] == RANDOM_WEIGHTS
    assert found["resnet18"].file is not None


def test_the_published_files_are_those_of_torchvision_and_of_the_documentation() -> None:
    import_torchvision()
    from torchvision.models import get_model_weights

    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    for backbone in BACKBONES:
        published, official = PUBLISHED[backbone], get_model_weights(backbone)["IMAGENET1K_V1"]
        assert published.url == official.url
        assert published.size / 2**20 == pytest.approx(official.meta["_file_size"], abs=0.001)
        assert published.name.endswith(f"-{published.digest[:8]}.pth")
        assert len(published.digest) == 64
        row = next(line for line in page.splitlines() if published.url in line)
        assert published.digest in row
        assert f"{published.size:,}" in row


def test_a_file_in_torchvisions_cache_is_used_if_its_digest_matches(
    weights: Path, cache: Path, tmp_path: Path
) -> None:
    torch.save(load_file(weights / "resnet18-imagenet.safetensors"), tmp_path / "saved.pth")
    content = (tmp_path / "saved.pth").read_bytes()
    (cache / PUBLISHED["resnet18"].name).write_bytes(content)
    found = find_initial_weights("resnet18", None)
    assert found.file == cache / PUBLISHED["resnet18"].name
    with pytest.raises(InitialWeightsUnfit):
        initial_network("resnet18", 2, found)
    right = cache / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    right.write_bytes(content)
    initial_network("resnet18", 2, InitialWeights(right))


def test_a_pickle_that_builds_more_than_tensors_is_refused(cache: Path) -> None:
    content = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    file = cache / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    file.write_bytes(content)
    with pytest.raises(InitialWeightsUnfit):
        initial_network("resnet18", 2, InitialWeights(file))


def test_initial_weights_of_another_architecture_are_refused(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "resnet34-imagenet.safetensors"
    file.write_bytes((weights / "resnet18-imagenet.safetensors").read_bytes())
    with pytest.raises(InitialWeightsUnfit):
        initial_network("resnet34", 2, find_initial_weights("resnet34", tmp_path))
