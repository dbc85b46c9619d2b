"""Measuring a model on labelled images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from db.engine import Database
from db.models.registry import ensure_champion
from db.models.store import CARD_FILE
from db.upkeep.migrate import upgrade
from training.evaluation.model import evaluate
from training.recipe import RecipeUnknown, find_recipe
from worker.runtime.loading import load_model
from worker.runtime.torch.runtime import build_network


def test_unreadable_images_are_counted_and_left_out(labelled: Path, artefact: Path, tmp_path: Path) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for source in sorted((labelled / label).iterdir())[:3]:
            (tmp_path / label / source.name).write_bytes(source.read_bytes())
    (tmp_path / "NORMAL" / "broken.jpg").write_text("not an image")
    found = evaluate(tmp_path, artefact)
    assert (found.measures.n, found.unreadable) == (6, 1)


@pytest.mark.usefixtures("home")
def test_a_card_that_is_swapped_after_import_changes_no_evaluation(
    labelled: Path, artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scheduler.cli.models.evaluate import evaluate as command

    database = Database()
    upgrade(database)
    card = database.models_folder / ensure_champion(database, artefact).name / CARD_FILE
    content = json.loads(card.read_text())
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for source in sorted((labelled / label).iterdir())[:3]:
            (tmp_path / label / source.name).write_bytes(source.read_bytes())
    found = []
    for swapped in ({}, {"threshold": 0.99, "classes": content["classes"][::-1]}):
        card.write_text(json.dumps(content | swapped))
        with pytest.raises(typer.Exit):
            command(tmp_path, model=None, as_json=True)
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["threshold"] == content["threshold"]
    assert found[1] == found[0]


def test_recipes_are_found_by_name() -> None:
    assert find_recipe("thesis").epochs == 20
    assert find_recipe("thesis").batch_size == 20
    assert find_recipe("thesis").weight_decay == 0.01
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
    card = load_model(folder).card
    assert card.backbone == "resnet50"
    card.check_preprocessing()
    assert folder.name == card.model_id
    text = (folder / "README.md").read_text()
    for fact in (card.model_id, "CC BY 4.0", "10.17632/rscbjbr9sj", "Not a medical device"):
        assert fact in text
    assert sum(p.numel() for p in build_network("resnet50", 2).parameters()) > 25_000_000
