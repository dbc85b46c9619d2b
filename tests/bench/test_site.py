"""What `retrain --from champion` gains at another hospital, and what it loses at the former one.

Cross-validation over the patients of adults of another hospital: the champion and the model that went on from
it are measured on patients of whom neither has seen a picture.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.figures import Figures

#: How many of three folds are run.
FOLDS = int(os.environ.get("BENCH_FOLDS", "3"))
#: Images of both classes at each site, all by default.
IMAGES = int(os.environ.get("BENCH_IMAGES", "20000")) // 2
#: Epochs, the recipe's by default.
EPOCHS = os.environ.get("BENCH_EPOCHS", "")
#: The largest loss at the former site that is allowed: AUC.
ALLOWED = 0.003

pytestmark = [pytest.mark.bench, pytest.mark.shared]


def patients(data: Path) -> dict[str, list[Path]]:
    """Return the files of each patient: the first eight digits of a name, as in ChestX-ray14."""
    found: dict[str, list[Path]] = defaultdict(list)
    for label in ("NORMAL", "PNEUMONIA"):
        for file in sorted((data / label).iterdir())[:IMAGES]:
            found[file.name[:8]].append(file)
    return found


def folders(data: Path, out: Path) -> list[tuple[Path, Path]]:
    """Write the folders of each fold: to learn from, and to measure; one folder per patient in each class."""
    from sklearn.model_selection import StratifiedKFold

    files = patients(data)
    names = sorted(files)
    ill = [any(file.parent.name == "PNEUMONIA" for file in files[name]) for name in names]
    pairs = []
    for number, split in enumerate(StratifiedKFold(3, shuffle=True, random_state=0).split(names, ill)):
        pair = (out / f"learn-{number}", out / f"measure-{number}")
        for folder, chosen in zip(pair, split, strict=True):
            for name in (names[index] for index in chosen):
                for file in files[name]:
                    place = folder / file.parent.name / name
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, place)
        pairs.append(pair)
    return pairs[:FOLDS]


def part_of(data: Path, folder: Path) -> Path:
    """Copy the first images of each class."""
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir(parents=True)
        for file in sorted((data / label).iterdir())[:IMAGES]:
            shutil.copy(file, folder / label)
    return folder


def run(*command: str) -> dict[str, Any]:
    """Run a command of pneumoscreen and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", *command, "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_site_can_teach_the_model_and_the_former_site_is_not_forgotten(
    shared: Path, tmp_path: Path, figures: Figures
) -> None:
    former = part_of(shared / "chest_xray_224", tmp_path / "former")
    epochs = ["--epochs", EPOCHS] if EPOCHS else []
    before, after, lost = [], [], []
    for learn, measure in folders(shared / "nih_adult_224", tmp_path):
        done = run("retrain", str(learn), "--from", "champion", "--replay", str(former), *epochs)
        before.append(run("evaluate", str(measure)))
        after.append(run("evaluate", str(measure), "--model", done["winner"]))
        report = json.loads(Path(done["report"]).with_name("report.json").read_text())
        (check,) = (one for one in report["challenge"]["checks"] if one["rule"] == "former site")
        lost.append(-check["difference"])
    subject = f"adults of another hospital, {len(before)} of 3 folds"
    for name in ("auc", "sensitivity", "specificity"):
        for who, found in (("champion", before), ("taught", after)):
            figures.add(subject, f"{who}: {name}", float(np.mean([one[name]["value"] for one in found])), "")
    figures.add("former site, held out", "loss of AUC", float(np.mean(lost)), "", goal=ALLOWED)
