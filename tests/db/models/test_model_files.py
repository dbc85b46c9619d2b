"""Malicious model files: they are refused at import, and by a worker before use."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from sqlalchemy import select

from db.engine import Database
from db.errors import PneumoscreenError
from db.models.card import ModelInvalid
from db.models.registry import ensure_champion, import_model
from db.models.store import CARD_FILE, WEIGHTS_FILE, ModelDigestMismatch, read_card
from db.tables import Model
from db.upkeep.migrate import upgrade
from tests.commands import printed
from training.fitting.candidate import check_candidate
from training.fitting.checkpoint import read_checkpoint
from worker.runtime.loading import load_model
from worker.runtime.protocol import ModelWeightsUnfit
from worker.runtime.torch.runtime import build_network
from worker.screening.model_cache import ModelCache


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.mark), "w")


def replace_weights(folder: Path, weights: bytes) -> None:
    """Replace an artefact's weights, and set the digest in its card to match."""
    digest = hashlib.sha256(weights).hexdigest()
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).write_bytes(weights)
    change_card(folder, weights_digest=digest, model_id=f"resnet18-{digest[:12]}")


def change_card(folder: Path, **fields: Any) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | fields))


def plant_pickle(folder: Path) -> None:
    replace_weights(folder, pickle.dumps(Bomb(folder.parent / "mark")))


def plant_torch_file(folder: Path) -> None:
    torch.save({"weights": Bomb(folder.parent / "mark")}, folder.parent / "saved.pt")
    replace_weights(folder, (folder.parent / "saved.pt").read_bytes())


def link(name: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return plant


def plant_pipe(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    os.mkfifo(folder / WEIGHTS_FILE)


def plant_large_file(folder: Path) -> None:
    os.truncate(folder / WEIGHTS_FILE, (256 << 20) + 1)


def header(content: bytes) -> Callable[[Path], None]:
    return lambda folder: replace_weights(folder, content)


def nested_header(folder: Path) -> None:
    text = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    replace_weights(folder, struct.pack("<Q", len(text)) + text)


def oversized_header(folder: Path) -> None:
    """Pad the header of the real tensors beyond the size of any model's header."""
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (length,) = struct.unpack("<Q", weights[:8])
    text = weights[8 : 8 + length].ljust(2 << 20)
    replace_weights(folder, struct.pack("<Q", len(text)) + text + weights[8 + length :])


def change_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        state = load((folder / WEIGHTS_FILE).read_bytes())
        name = next(name for name, tensor in state.items() if tensor.dim() == 4)
        replace_weights(folder, save(state | {name: change(state[name].float()).contiguous()}))

    return plant


def plant_card(content: bytes) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / CARD_FILE).write_bytes(content)

    return plant


def scored(**measures: object) -> dict[str, object]:
    return {"validation": measures}


def other_architecture(folder: Path) -> None:
    replace_weights(folder, save({k: t.half() for k, t in build_network("alexnet", 2).state_dict().items()}))


PLANTS: dict[str, tuple[Callable[[Path], None], type[PneumoscreenError]]] = {
    "pickle": (plant_pickle, ModelInvalid),
    "torch's own format": (plant_torch_file, ModelInvalid),
    "weights that are a link": (link(WEIGHTS_FILE), ModelInvalid),
    "weights that are a pipe": (plant_pipe, ModelInvalid),
    "weights larger than any": (plant_large_file, ModelInvalid),
    "header longer than the file": (header(struct.pack("<Q", 1 << 40) + b"{}"), ModelInvalid),
    "header larger than any": (oversized_header, ModelInvalid),
    "header that nests": (nested_header, ModelInvalid),
    "header that is a list": (header(struct.pack("<Q", 2) + b"[]"), ModelInvalid),
    "no header": (header(b""), ModelInvalid),
    "other architecture": (other_architecture, ModelWeightsUnfit),
    "other shape": (change_weights(lambda one: one[:1]), ModelWeightsUnfit),
    "not a number": (change_weights(lambda one: one.fill_(float("nan"))), ModelInvalid),
    "infinite": (change_weights(lambda one: one.fill_(float("inf"))), ModelInvalid),
    "double precision": (change_weights(torch.Tensor.double), ModelInvalid),
    "bytes for numbers": (change_weights(torch.Tensor.byte), ModelInvalid),
}

ONLY_TORCH_TELLS = {"other architecture", "other shape", "not a number", "infinite"}

#: Changes to the card. A worker does not read this file: it takes the card from the job table.
CARDS: dict[str, Callable[[Path], None]] = {
    "card that is a link": link(CARD_FILE),
    "card that is a pickle": plant_card(pickle.dumps({"format": 1})),
    "card that nests": plant_card(b'{"metrics":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "card larger than any": plant_card(b'{"training": {"x": "' + b"x" * (2 << 20) + b'"}}'),
    "number of a million digits": plant_card(b'{"threshold": ' + b"9" * 900_000 + b"}"),
    "mean that is no number": lambda folder: change_card(folder, mean=[float("nan"), 0.4, 0.4]),
    "division by nothing": lambda folder: change_card(folder, std=[0, 0.2, 0.2]),
    "class that writes to terminals": lambda folder: change_card(folder, classes=["PNEUMONIA", "\x1b[2J"]),
    "score that is a text": lambda folder: change_card(folder, metrics=scored(auc={"value": "x"})),
    "score of a thousand digits": lambda folder: change_card(folder, metrics=scored(auc={"value": 10**400})),
    "score without a name": lambda folder: change_card(folder, metrics={"validation": [1]}),
    "scores that are no scores": lambda folder: change_card(folder, metrics=scored(sensitivity=[1])),
    "number of a thousand digits": lambda folder: change_card(folder, training={"x": 10**4000}),
    "text that writes to terminals": lambda folder: change_card(folder, training={"x": [{"y": "\x1b[2J"}]}),
    "name that writes to terminals": lambda folder: change_card(folder, training={"\x9b2J": 1}),
    "field that writes to terminals": lambda folder: change_card(folder, **{"\x1b[2J": 1}),
    "a thousand classes": lambda folder: change_card(
        folder, classes=["PNEUMONIA", *(f"C_{'A' * n}" for n in range(30)), "NORMAL"]
    ),
}


@pytest.fixture
def planted(artefact: Path, tmp_path: Path) -> Path:
    """Copy a model for a test to tamper with."""
    return Path(shutil.copytree(artefact, tmp_path / "planted" / artefact.name))


@pytest.fixture
def job_table(home: Path) -> Database:
    database = Database()
    upgrade(database)
    return database


def registered(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Model.name)))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_worker_refuses_what_was_planted_in_the_models_folder(plant: str, planted: Path) -> None:
    card = read_card(planted)
    put, error = PLANTS[plant]
    put(planted)
    # An attacker may even have changed the digest in the job table.
    weights = planted / WEIGHTS_FILE
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "0" * 64
    with pytest.raises(error):
        load_model(planted, digest=digest, card=card)
    assert not (planted.parent / "mark").exists(), "it was unpickled"


@pytest.mark.parametrize("plant", PLANTS)
def test_import_refuses_a_planted_file_if_torch_is_installed(plant: str, planted: Path) -> None:
    put, error = PLANTS[plant]
    put(planted)
    with pytest.raises(error):
        check_candidate(planted)
    assert not (planted.parent / "mark").exists(), "it was unpickled"


@pytest.mark.parametrize("plant", [name for name in (*PLANTS, *CARDS) if name not in ONLY_TORCH_TELLS])
def test_import_without_torch_refuses_everything_that_can_be_checked_without_torch(
    plant: str, planted: Path, home: Path
) -> None:
    put = PLANTS[plant][0] if plant in PLANTS else CARDS[plant]
    put(planted)
    with pytest.raises(ModelInvalid) as refused:
        # The database has no tables: import must refuse the file before it needs them.
        import_model(Database(), planted)
    assert str(refused.value).isprintable()
    assert not (home / "models").exists()
    assert not (planted.parent / "mark").exists(), "it was unpickled"


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        pytest.param("pickle", "model-invalid", marks=pytest.mark.long),
        ("other architecture", "model-weights-unfit"),
    ],
)
def test_models_import_says_what_is_wrong(plant: str, code: str, job_table: Database, planted: Path) -> None:
    PLANTS[plant][0](planted)
    assert code in printed("models", "import", str(planted), expect=2)
    assert planted.name not in registered(job_table)
    assert not (planted.parent / "mark").exists()


def test_models_are_listed_even_if_a_card_holds_malformed_values(job_table: Database, planted: Path) -> None:
    """The card was registered before such checks existed, or was written into the job table directly."""
    ensure_champion(job_table, planted)
    with job_table.write() as session:
        model = session.scalars(select(Model)).one()
        wrong = {
            "metrics": scored(auc={"value": "x"}, sensitivity="x"),
            "training": {"by": "\x1b]0;x\x07 me"},
        }
        model.card = model.card | wrong
    assert "champion" in printed("models", "list")
    shown = printed("models", "show", planted.name)
    assert "]0;x me" in shown
    assert "\x1b" not in shown


def test_pickles_beside_a_model_are_neither_read_nor_copied(job_table: Database, planted: Path) -> None:
    for name in ("model.pt", "model.pth", "export.pkl", "pytorch_model.bin"):
        (planted / name).write_bytes(pickle.dumps(Bomb(planted.parent / "mark")))
    (planted.parent / "link").symlink_to(planted)
    model = import_model(job_table, planted.parent / "link")
    assert ModelCache(job_table).get(model.id)
    copied = job_table.models_folder / model.name
    assert sorted(file.name for file in copied.iterdir()) == [CARD_FILE, WEIGHTS_FILE]
    assert not (planted.parent / "mark").exists()


def test_a_folder_that_is_a_link_is_not_loaded(job_table: Database, artefact: Path) -> None:
    model = ensure_champion(job_table, artefact)
    folder = job_table.models_folder / model.name
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    with pytest.raises(ModelInvalid):
        ModelCache(job_table).get(model.id)


def test_weights_with_another_digest_are_not_loaded(job_table: Database, artefact: Path) -> None:
    model = ensure_champion(job_table, artefact)
    change_weights(lambda one: one + 1)(job_table.models_folder / model.name)
    with pytest.raises(ModelDigestMismatch):
        ModelCache(job_table).get(model.id)


def test_a_card_that_is_swapped_after_import_moves_no_threshold(job_table: Database, artefact: Path) -> None:
    model = ensure_champion(job_table, artefact)
    change_card(
        job_table.models_folder / model.name, threshold=0.0, temperature=99.0, classes=["NORMAL", "PNEUMONIA"]
    )
    card = ModelCache(job_table).get(model.id).runtime.card
    assert (card.threshold, card.temperature, card.classes) == (0.5, 1.5, ("PNEUMONIA", "NORMAL"))


@pytest.mark.parametrize("planted_file", ["state.json", "tensors.safetensors"])
def test_a_checkpoint_is_never_unpickled_and_a_damaged_one_not_used(
    tmp_path: Path, planted_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("state.json", "tensors.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "state.json").write_text(
        '{"epochs": [], "optimiser": [], "generators": {}, "running_loss": [0, 0]}'
    )
    (tmp_path / planted_file).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    assert read_checkpoint(tmp_path) is None
    assert "a checkpoint cannot be read" in caplog.text
    assert not (tmp_path / "mark").exists()
