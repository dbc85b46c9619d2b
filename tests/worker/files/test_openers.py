"""A new URL scheme in one module: the opener that is defined here serves ingest, decoding, labels, roots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.problems import FileTooLarge, FileVanished, OutsideRoots, SourceAway
from db.tables import Image
from scheduler.ingest import open_source
from scheduler.labels import import_labels
from scheduler.submit import submit
from worker.files.access import is_available, read_file
from worker.files.omissions import Omissions
from worker.files.opener import Content, Entry
from worker.files.openers import opener_modules
from worker.files.roots import Roots, SourceOutsideRoots
from worker.files.url import RemoteUrlInvalid
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


class MemoryOpener:
    """Access to files in a dictionary."""

    threads = 2

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def check(self, url: str, roots: Roots) -> None:
        roots.check_url(url)

    def read_file(self, url: str, limit: int, roots: Roots) -> Content:
        data = self.read_start(url, limit + 1, roots)
        if len(data) > limit:
            raise FileTooLarge
        return Content(data, 5.0)

    def read_start(self, url: str, size: int, roots: Roots) -> bytes:
        roots.check_url(url)
        if url not in self.files:
            raise FileVanished
        return self.files[url][:size]

    def list_files(self, url: str, roots: Roots, omissions: Omissions) -> Iterator[Entry]:
        for name, data in sorted(self.files.items()):
            if name.startswith(f"{url}/"):
                yield Entry(name, len(data), 5.0)

    def is_available(self, url: str, roots: Roots) -> bool:
        return any(name.startswith(url) for name in self.files)


OPENER = MemoryOpener()


@pytest.fixture
def memory(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Put phantoms behind `mem://ward/trial`, and this module into the table of openers."""
    monkeypatch.setitem(opener_modules(), "mem", __name__)
    files = {path.name: path.read_bytes() for path in phantoms.rglob("*") if path.is_file()}
    monkeypatch.setattr(OPENER, "files", {f"mem://ward/trial/{name}": data for name, data in files.items()})
    return OPENER.files


@pytest.mark.usefixtures("model")
def test_a_new_scheme_is_taken_in_and_screened(
    database: Database, memory: dict[str, bytes], tmp_path: Path
) -> None:
    taken = submit(database, open_source("mem://ward/trial"), name="trial")
    assert taken.new == len(memory)
    with database.write() as session:
        first, second = cut_batches(session, taken.cohort_id, batch_images=len(memory) // 2 + 1, in_flight=9)
    screener = Screener(database, WorkerSettings())
    gone = memory.pop("mem://ward/trial/phantom-0000.jpeg", None)
    assert gone is not None
    screener.screen(first)
    before = dict(memory)
    memory.clear()
    with pytest.raises(SourceAway):
        screener.screen(second)
    with database.read() as session:
        images = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    assert {one.state for one in images} == {"done", "failed", "pending"}
    assert [one.uri for one in images if one.problem] == ["mem://ward/trial/phantom-0000.jpeg"]
    memory.update(before)
    uri = next(iter(memory))
    (tmp_path / "labels.csv").write_text(f"path,class\n{uri},NORMAL\n")
    assert import_labels(database, tmp_path / "labels.csv").new == 1


def test_the_roots_restrict_a_new_scheme_too(
    memory: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = next(iter(memory))
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", '["mem://ward/trial"]')
    assert read_file(uri, limit=1 << 30, roots=Roots.read()).data == memory[uri]
    assert is_available("mem://elsewhere/trial", roots=Roots.read()), "a source outside the roots was probed"
    with pytest.raises(SourceOutsideRoots):
        open_source("mem://ward/other")
    with pytest.raises(OutsideRoots):
        read_file("mem://ward/other/1.jpg", limit=1 << 30, roots=Roots.read())


def test_a_scheme_without_a_module_is_refused() -> None:
    assert opener_modules().keys() == {"file", "http", "https", "s3", "sftp"}
    with pytest.raises(RemoteUrlInvalid):
        open_source("mem://ward/trial")
