"""Where labelled images come from: folders, and the labels in the job table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from db.engine import Database
from db.labels import LabelledFile, labelled_files
from db.private import write_whole
from db.problems import ImageProblem, OutsideRoots
from db.remote import read_file
from db.roots import Roots, SourceOutsideRoots
from db.settings import home
from db.uri import locate
from training.dataset import LabelledImage, find_labelled, patient_group
from training.plan import Plan
from worker.settings import WorkerSettings

#: Characters that a fetched file's name keeps, and how many: at four bytes each a file system takes 63.
_UNSAFE, _LONGEST_NAME = re.compile(r"[^\w.-]"), 60


def labelled_images(database: Database, plan: Plan) -> list[LabelledImage]:
    """Return the labelled images of a run.

    From the job table come those whose file is known, lies inside the roots, and whose readers agree. Raises
    SourceOutsideRoots where the run's folder lies outside.
    """
    roots = Roots.read()
    found = []
    if plan.data is not None:
        try:
            roots.check(plan.data.absolute())
        except OutsideRoots:
            raise SourceOutsideRoots from None
        found = [replace(image, roots=roots) for image in find_labelled(plan.data.absolute())]
    if plan.use_labels:
        with database.read() as session:
            files = labelled_files(session)
        for file in files:
            if file.uri is not None and not file.contradicts:
                with suppress(OutsideRoots):
                    found.append(_image(file, *_at_hand(file.uri, roots)))
    return found


def labels_without_file(database: Database, plan: Plan) -> int:
    """Return of how many labelled images no file is known, or one outside the roots."""
    if not plan.use_labels:
        return 0
    roots, elsewhere = Roots.read(), WorkerSettings.read().path_map
    with database.read() as session:
        files = [file for file in labelled_files(session) if not file.contradicts]
    return sum(not _may_be_read(file.uri, roots, elsewhere) for file in files)


def _may_be_read(uri: str | None, roots: Roots, elsewhere: Mapping[str, str]) -> bool:
    try:
        if uri is not None:
            roots.check(locate(uri, elsewhere))
    except OutsideRoots:
        return False
    return uri is not None


def readings_by_digest(database: Database, plan: Plan) -> dict[str, Set[str]]:
    """Return the classes that readers gave to files, by which `training.prepare` finds contradictions."""
    if not plan.use_labels:
        return {}
    with database.read() as session:
        return {file.digest: set(file.readings.values()) for file in labelled_files(session) if file.digest}


def _image(file: LabelledFile, path: Path, roots: Roots) -> LabelledImage:
    group = f"patient {file.patient}" if file.patient else patient_group(path)
    return LabelledImage(path=path, label=file.class_name, group=group, roots=roots)


def _at_hand(uri: str, roots: Roots) -> tuple[Path, Roots]:
    """Return a file's path on this machine, and what it must lie in; what is behind a URL is fetched, once.

    A file that cannot be fetched is left out by the reader of all of them, which says so.
    Raises OutsideRoots.
    """
    where = locate(uri, WorkerSettings.read().path_map)
    roots.check(where)
    if isinstance(where, Path):
        return where, roots
    fetched = home().resolve() / "fetched"
    folder = fetched / hashlib.sha256(where.encode()).hexdigest()[:32]
    path = folder / _name(where)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(ImageProblem), write_whole(path) as file:
            file.write(read_file(where, limit=WorkerSettings.read().max_file_bytes, roots=roots))
    return path, Roots((str(fetched),))


def _name(url: str) -> str:
    """Return a URL's last part, which may carry the patient group, as a name that leads nowhere else.

    It is taken after decoding: `%2Fvar%2Fx` is a path of its own.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return _UNSAFE.sub("_", name).lstrip(".")[:_LONGEST_NAME] or "file"
