"""The sources of labelled images: folders, and the labels in the job table."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from db.atomic import write_whole
from db.engine import Database
from db.jobs.problems import ImageProblem, OutsideRoots
from db.settings import home
from db.training.labels import labelled_files
from training.data.labelled import LabelledImage, find_labelled
from training.data.patients import Group, ToldBy, patient_group
from training.plan import Plan
from worker.files.access import check, read_file
from worker.files.roots import Roots, SourceOutsideRoots
from worker.files.url import is_local, locate, uri_to_path
from worker.settings import WorkerSettings

#: Characters that a fetched file's name loses, and the most that it keeps: a file system allows 255 bytes,
#: which are 63 characters of four bytes.
_UNSAFE, _LONGEST_NAME = re.compile(r"[^\w.-]"), 60


def labelled_images(database: Database, plan: Plan) -> list[LabelledImage]:
    """Return the labelled images of a run.

    Those of the job table count if their file is known and inside the roots, and if their readers agree.
    Raises SourceOutsideRoots if the run's folder is outside.
    """
    roots = Roots.read()
    found = [] if plan.data is None else labelled_folder(plan.data)
    if plan.use_labels:
        with database.read() as session:
            files = labelled_files(session)
        settled = [(file.uri, file) for file in files if file.uri is not None and not file.contradicts]
        groups = _groups({uri: file.patient for uri, file in settled})
        for uri, file in settled:
            with suppress(OutsideRoots):
                path, inside = _at_hand(uri, roots)
                found.append(LabelledImage(path, file.class_name, groups[uri], inside))
    return found


def labelled_folder(data: Path) -> list[LabelledImage]:
    """Return the labelled images of a folder. Raises SourceOutsideRoots, LabelledFolderUnreadable."""
    roots = Roots.read()
    try:
        roots.check_path(data.absolute())
    except OutsideRoots:
        raise SourceOutsideRoots from None
    return [replace(image, roots=roots) for image in find_labelled(data.absolute())]


def labels_without_file(database: Database, plan: Plan) -> int:
    """Count the labelled images whose file is unknown or outside the roots."""
    if not plan.use_labels:
        return 0
    roots, elsewhere = Roots.read(), WorkerSettings.read().path_map
    with database.read() as session:
        files = [file for file in labelled_files(session) if not file.contradicts]
    return sum(not _may_be_read(file.uri, roots, elsewhere) for file in files)


def _may_be_read(uri: str | None, roots: Roots, elsewhere: Mapping[str, str]) -> bool:
    try:
        if uri is not None:
            check(locate(uri, elsewhere), roots)
    except OutsideRoots:
        return False
    return uri is not None


def readings_by_digest(database: Database, plan: Plan) -> dict[str, Set[str]]:
    """Return the classes that readers gave to files, for `training.data.dataset` to find contradictions."""
    if not plan.use_labels:
        return {}
    with database.read() as session:
        return {file.digest: set(file.readings.values()) for file in labelled_files(session) if file.digest}


def _groups(patients: Mapping[str, str | None]) -> dict[str, Group]:
    """Return the group of each URI: its patient, if that is known, or else a group from its path.

    The path begins at the innermost folder that holds all such files of a server.
    """
    groups = {uri: Group(f"patient {patient}", ToldBy.LABEL) for uri, patient in patients.items() if patient}
    places: dict[str, list[str]] = defaultdict(list)
    for uri in patients.keys() - groups.keys():
        group = patient_group(_path(uri), _server(uri))
        if group.told_by is ToldBy.NAME:
            groups[uri] = group
        else:
            places[_server(uri)].append(uri)
    for server, uris in places.items():
        paths = {uri: _path(uri) for uri in uris}
        place = os.path.commonpath([path.parent for path in paths.values()])
        for uri, path in paths.items():
            group = patient_group(path.relative_to(place), f"{server}{place}")
            groups[uri] = replace(group, key=f"{server}{place} {group.key}")
    return groups


def _server(uri: str) -> str:
    parts = urlsplit(uri)
    return "" if is_local(uri) else f"{parts.scheme}://{parts.netloc}"


def _path(uri: str) -> PurePath:
    """Return the decoded path of a file on its server or this machine. It is not used to read the file."""
    if is_local(uri):
        return uri_to_path(uri)
    return PurePosixPath("/", unquote(urlsplit(uri).path).lstrip("/"))


def _at_hand(uri: str, roots: Roots) -> tuple[Path, Roots]:
    """Return a file's path on this machine, and the roots that it must lie in. A URL is fetched once.

    If it cannot be fetched, the path does not exist, and `read_pictures` lists it as unreadable.
    Raises OutsideRoots.
    """
    settings = WorkerSettings.read()
    where = locate(uri, settings.path_map)
    check(where, roots)
    if is_local(where):
        return uri_to_path(where), roots
    fetched = home().resolve() / "fetched"
    folder = fetched / hashlib.sha256(where.encode()).hexdigest()[:32]
    path = folder / _name(where)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(ImageProblem), write_whole(path) as file:
            file.write(read_file(where, limit=settings.max_file_bytes, roots=roots).data)
    return path, Roots((str(fetched),))


def _name(url: str) -> str:
    """Return a URL's last part, which may name the patient group, as a safe file name.

    It is taken after decoding: `%2Fvar%2Fx` decodes to a path.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return _UNSAFE.sub("_", name).lstrip(".")[:_LONGEST_NAME] or "file"
