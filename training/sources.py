"""Where labelled images come from: folders, and the labels in the job table."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from db.engine import Database
from db.labels import LabelledFile, labelled_files
from db.uri import map_path, uri_to_path
from training.dataset import LabelledImage, find_labelled, patient_group
from training.plan import Plan
from worker.settings import WorkerSettings


def labelled_images(database: Database, plan: Plan) -> list[LabelledImage]:
    """Return the labelled images of a run.

    From the job table come those whose file is known and whose readers agree.
    """
    found = find_labelled(plan.data) if plan.data is not None else []
    if plan.use_labels:
        with database.read() as session:
            files = labelled_files(session)
        elsewhere = WorkerSettings.read().path_map
        found += [
            _image(file, map_path(uri_to_path(file.uri), elsewhere))
            for file in files
            if file.uri is not None and not file.contradicts
        ]
    return found


def readings_by_digest(database: Database, plan: Plan) -> dict[str, Set[str]]:
    """Return the classes that readers gave to files, by which `training.prepare` finds contradictions."""
    if not plan.use_labels:
        return {}
    with database.read() as session:
        return {file.digest: set(file.readings.values()) for file in labelled_files(session) if file.digest}


def _image(file: LabelledFile, path: Path) -> LabelledImage:
    group = f"patient {file.patient}" if file.patient else patient_group(path)
    return LabelledImage(path=path, label=file.class_name, group=group)
