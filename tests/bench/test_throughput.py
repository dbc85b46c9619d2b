"""Images per second of screening, against plain fastai on the same files in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.models.card import ModelCard
from db.models.registry import ensure_champion
from db.models.store import WEIGHTS_FILE, read_card
from db.states import ImageState
from db.tables import Batch, Cohort, Image, Prediction
from db.upkeep.migrate import upgrade
from deploy.models import default_model
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import submit
from tests.bench.figures import Figures

#: Pairs of runs; the median counts.
ROUNDS = 3
#: The promised factor.
TARGET = 2.5

pytestmark = [pytest.mark.bench, pytest.mark.shared]


def fastai_learner(folder: Path, files: list[Path]) -> tuple[object, object]:
    """Build the learner and loaders that a fastai user has after `load_learner`, without tuning."""
    from worker.runtime.torch.runtime import load_network
    from worker.torchvision_pair import import_torchvision

    import_torchvision()
    from fastai.vision.all import (
        CategoryBlock,
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
        get_y=lambda path: path.parent.name,
        item_tfms=Resize(224, method=ResizeMethod.Squish),
        batch_tfms=Normalize.from_stats(card.mean, card.std),
    )
    loaders = block.dataloaders(files)
    from fastai.losses import CrossEntropyLossFlat

    return Learner(loaders, network, loss_func=CrossEntropyLossFlat()), loaders


def fastai_run(
    learner: object, loaders: object, files: list[Path], card: ModelCard
) -> tuple[float, np.ndarray]:
    """Return images per second and P(PNEUMONIA)."""
    start = time.perf_counter()
    with learner.no_bar():  # type: ignore[attr-defined]
        logits, _ = learner.get_preds(dl=loaders.test_dl(files), act=lambda x: x)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - start
    rows = (logits / card.temperature).softmax(dim=1).numpy()
    return len(files) / seconds, rows[:, card.positive_columns[0]]


def screen_run(database: Database, folder: Path, name: str) -> float:
    """Submit a cohort, wait until it is screened, and return images per second over the whole time."""
    start = time.perf_counter()
    submitted = submit(database, FolderSource(folder), name=name)
    while True:
        with database.read() as session:
            done = session.scalars(
                select(func.count())
                .select_from(Image)
                .where(Image.cohort_id == submitted.cohort_id, Image.state == ImageState.DONE)
            ).one()
        if done == submitted.found:
            return done / (time.perf_counter() - start)
        assert time.perf_counter() - start < 300
        time.sleep(0.05)


def working_seconds(database: Database, name: str) -> float:
    """Return the time from the first batch that was cut to the last that was finished."""
    with database.read() as session:
        first, last = session.execute(
            select(func.min(Batch.created_at), func.max(Batch.finished_at))
            .join(Cohort, Cohort.id == Batch.cohort_id)
            .where(Cohort.name == name)
        ).one()
    return last - first


@contextmanager
def warm_stack(database: Database, folder: Path, name: str) -> Iterator[None]:
    """Run the embedded stack, which has already screened a cohort."""
    stack = Stack()
    try:
        start_stack(database, stack)
        stack.wait_ready(workers_answer)
        screen_run(database, folder, name)
        yield
    finally:
        stack.stop()


def test_screening_is_faster_than_plain_fastai_with_the_same_labels(
    shared: Path, home: Path, figures: Figures
) -> None:
    folder = shared / "chest_xray_original"
    files = sorted(folder.rglob("*.jpeg"))
    model = default_model()
    card = read_card(model)
    learner, loaders = fastai_learner(model, files)
    database = Database()
    upgrade(database)
    ensure_champion(database, model)
    plain, ours, working, probability = [], [], [], np.empty(0)
    for number in range(ROUNDS):
        # Nothing else runs meanwhile: even an idle stack would slow down fastai's loaders a lot.
        rate, probability = fastai_run(learner, loaders, files, card)
        plain.append(rate)
        with warm_stack(database, folder, f"warm-up-{number}"):
            ours.append(screen_run(database, folder, f"round-{number}"))
        working.append(len(files) / working_seconds(database, f"round-{number}"))
    with database.read() as session:
        stored = dict(
            session.execute(
                select(Image.uri, Prediction.probability)
                .join(Prediction, Prediction.image_id == Image.id)
                .join(Cohort, Cohort.id == Image.cohort_id)
                .where(Cohort.name == "round-0")
            ).all()
        )
    screened = np.array([stored[str(file.resolve())] for file in files])
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, plain, strict=True))
    subject = f"screening {len(files)} images"
    figures.add(subject, "plain fastai", statistics.median(plain), "images/s")
    figures.add(subject, "screen, from submit", statistics.median(ours), "images/s")
    figures.add(subject, "screen, batches only", statistics.median(working), "images/s")
    figures.add(subject, "screen to plain fastai", ratio, "times", goal=TARGET)
    figures.add(subject, "largest difference of a probability", np.abs(screened - probability).max(), "")
    assert ((screened >= card.threshold) == (probability >= card.threshold)).all()
    assert ratio >= TARGET
