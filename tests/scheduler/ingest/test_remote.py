"""Images on servers: web, S3 and SFTP."""

from __future__ import annotations

import os
import shutil
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.problems import EmptyFile, FileTooLarge, FileUnreadable, FileVanished
from db.tables import Image, NightlyRun
from scheduler.ingest import open_source
from scheduler.ingest.recognition import START_BYTES
from scheduler.ingest.source import SourceMissing, SourceUnreadable
from scheduler.ingest.sources.remote import _HEAD_BYTES
from scheduler.ingest.walk import Walk
from scheduler.labels import import_labels
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.slots import run_now
from tests.pictures import read_picture
from tests.worker.files.servers import SftpServer, WebServer, make_ssh_user, s3_server, web_server
from training.data.sources import labelled_images
from training.plan import Plan
from training.recipe import find_recipe
from worker.files.access import list_files, read_file, read_start
from worker.files.omissions import Omissions
from worker.files.roots import Roots
from worker.files.url import RemoteUrlInvalid, check_url, locate
from worker.imaging.limits import Limits


@pytest.fixture(scope="module")
def study(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the phantoms, with other files beside them as in real folders."""
    folder = tmp_path_factory.mktemp("remote") / "study"
    shutil.copytree(phantoms, folder)
    (folder / "jpeg" / "notes.txt").write_text("not an image")
    (folder / "jpeg" / "empty.jpg").touch()
    (folder / "jpeg" / "a name & äöü 100%.jpg").write_bytes(next((phantoms / "jpeg").iterdir()).read_bytes())
    return folder


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    server = SftpServer()
    make_ssh_user(tmp_path / "user", server, known=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def s3(study: Path) -> Iterator[str]:
    with s3_server(study) as address:
        yield address


@pytest.fixture
def web(study: Path) -> Iterator[str]:
    with web_server(study) as address:
        yield address


@pytest.fixture(params=["web", "s3", "sftp"])
def url(request: pytest.FixtureRequest, study: Path) -> str:
    """Return the study's address on each kind of server."""
    server = request.getfixturevalue(request.param)
    return f"sftp://reader@127.0.0.1:{server.port}{study}" if request.param == "sftp" else server


def test_a_server_gives_the_images_that_its_folder_gives(url: str, study: Path) -> None:
    remote, folder = Walk(open_source(url)), Walk(open_source(str(study)))
    there, here = list(remote), list(folder)
    assert len(there) == 12
    facts = [
        Counter((i.study_uid, i.series_uid, i.instance_uid, i.patient_key) for i in images)
        for images in (there, here)
    ]
    assert facts[0] == facts[1]
    # A web server's list has no sizes: only the worker finds that a file is empty.
    assert sum(image.problem == "empty-file" for image in there) == (0 if url.startswith("http") else 1)
    assert remote.left_out.ignored == folder.left_out.ignored == 1
    assert [image.uri for image in Walk(open_source(url))] == [image.uri for image in there]


def taken_in(database: Database, source: str) -> list[str]:
    """Make a nightly run on a source; return the addresses of the images that it takes in."""
    ward = Nightly(name="ward", source=source)
    run_id = run_now(database, ward)
    assert walk_night(database, NightlySettings(nightly=(ward,)), run_id)
    with database.read() as session:
        query = select(Image.uri).join(NightlyRun, NightlyRun.cohort_id == Image.cohort_id)
        return list(session.scalars(query.where(NightlyRun.id == run_id).order_by(Image.id)))


def test_a_night_without_new_files_opens_nothing_on_a_server(
    job_table: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def read(uri: str, size: int, *, roots: Roots) -> bytes:
        opened.append(uri)
        return read_start(uri, size, roots=roots)

    monkeypatch.setattr("scheduler.ingest.sources.remote.read_start", read)
    assert len(taken_in(job_table, url)) == 12
    # Each DICOM file and the text file once; the names of the others show that they are images.
    assert sorted(Counter(opened).values()) == [1] * 5
    opened.clear()
    assert taken_in(job_table, url) == []
    # A web server's list has no times: only opening the text file shows that it is still no image.
    assert [uri.rpartition("/")[2] for uri in opened] == (["notes.txt"] if url.startswith("http") else [])


@pytest.mark.parametrize("kind", ["s3", "sftp"])
def test_a_file_that_was_replaced_on_a_server_is_new_even_at_the_same_size(
    job_table: Database, request: pytest.FixtureRequest, study: Path, kind: str
) -> None:
    server = request.getfixturevalue(kind)
    url = f"sftp://reader@127.0.0.1:{server.port}{study}" if kind == "sftp" else server
    file = next((study / "png").iterdir())
    assert len(taken_in(job_table, url)) == 12
    moment = file.stat().st_mtime
    if kind == "sftp":
        os.utime(file, (moment, moment + 5))
    else:
        import boto3

        time.sleep(1.1)  # S3 lists whole seconds
        boto3.client("s3").upload_file(str(file), "study", file.relative_to(study).as_posix())
    assert taken_in(job_table, url) == [f"{url}/png/{file.name}"]
    assert taken_in(job_table, url) == []


def test_a_worker_sees_the_same_pixels(url: str, study: Path) -> None:
    uris = [image.uri for image in Walk(open_source(url)) if not image.uri.endswith("empty.jpg")]
    there = {read_picture(uri).digest for uri in uris}
    local = [image for image in Walk(open_source(str(study))) if image.problem is None]
    here = {read_picture(Path(image.uri)).digest: read_picture(Path(image.uri)).pixels for image in local}
    assert there == set(here)
    picture = read_picture(uris[0])
    assert np.array_equal(picture.pixels, here[picture.digest])


def test_a_url_may_name_one_image(url: str) -> None:
    uris = [image.uri for image in Walk(open_source(url)) if image.uri.endswith(".jpg")]
    assert [image.uri for image in Walk(open_source(uris[0]))] == [uris[0]]


def test_labels_may_name_images_by_url(database: Database, url: str, study: Path, tmp_path: Path) -> None:
    uri = next(image.uri for image in Walk(open_source(url)) if image.uri.endswith(".png"))
    (tmp_path / "labels.csv").write_text(f"path,class\n{uri},NORMAL\n{uri}x,NORMAL\n")
    imported = import_labels(database, tmp_path / "labels.csv", skip_bad=True)
    assert (imported.new, len(imported.bad)) == (1, 1)
    plan = Plan(recipe=find_recipe("thesis"), data=None, use_labels=True)
    for _ in range(2):  # first downloaded, then taken from the data directory
        (image,) = labelled_images(database, plan)
        assert image.path.name == Path(uri).name
        assert read_picture(image.path).digest == read_picture(uri).digest


def test_a_url_leads_training_to_no_file_but_the_fetched_one(
    database: Database, phantoms: Path, tmp_path: Path, home: Path
) -> None:
    target = tmp_path / "planted.png"
    served = tmp_path / "served"
    names = {
        quote(str(target), safe=""): str(target).lstrip("/"),
        quote("a b/person7_virus_1 x.png", safe=""): "a b/person7_virus_1 x.png",
        ".profile": ".profile",
    }
    for number, name in enumerate(names.values()):
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sorted((phantoms / "jpeg").iterdir())[number % 2], served / name)
        with (served / name).open("ab") as file:
            file.write(bytes([number]))
    with web_server(served) as web:
        lines = "".join(f"{web}/{name},NORMAL\n" for name in names)
        (tmp_path / "labels.csv").write_text(f"path,class\n{lines}")
        import_labels(database, tmp_path / "labels.csv")
        plan = Plan(recipe=find_recipe("thesis"), data=None, use_labels=True)
        images = labelled_images(database, plan)
    assert not target.exists()
    assert [image.path.name for image in images] == ["planted.png", "person7_virus_1_x.png", "profile"]
    assert [image.group.told_by for image in images] == ["folder", "name", "nothing"]
    assert all(image.path.is_file() and image.path.is_relative_to(home / "fetched") for image in images)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Return an element in explicit little endian."""
    form, rest = ("<HH2sHI", (0,)) if vr in (b"OB", b"SQ") else ("<HH2sH", ())
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, *rest, len(value)) + value


BEGINNING = bytes(128) + b"DICM" + element(0x0002_0010, b"UI", b"1.2.840.10008.1.2.1\0")


def test_identifiers_behind_something_large_are_found_on_a_server_too(tmp_path: Path) -> None:
    uids = element(0x0008_0018, b"UI", b"1.2.3\0"), element(0x0020_000D, b"UI", b"1.2\0")
    large = element(0x0009_1001, b"OB", bytes(3 << 20))
    (tmp_path / "a.dcm").write_bytes(BEGINNING + uids[0] + large + uids[1])
    with web_server(tmp_path) as web:
        (image,) = Walk(open_source(web))
    assert (image.problem, image.instance_uid, image.study_uid) == (None, "1.2.3", "1.2")


def test_a_damaged_header_on_a_server_does_not_fetch_the_whole_file(tmp_path: Path) -> None:
    # Sequences that are nested deeper than a reader follows them.
    item = struct.pack("<HH2sHIHHI", 8, 0x1115, b"SQ", 0, 0xFFFF_FFFF, 0xFFFE, 0xE000, 0xFFFF_FFFF)
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(BEGINNING + item * 5000)
        file.truncate(100 << 20)
    with web_server(tmp_path) as web:
        tracemalloc.start()
        (image,) = Walk(open_source(web))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert image.problem == "corrupt-image"
    assert peak < 30 << 20


def test_a_missing_folder_a_missing_file_and_an_empty_file_have_their_own_errors(url: str) -> None:
    with pytest.raises(SourceMissing):
        list(Walk(open_source(url + "/nowhere")))
    with pytest.raises(FileVanished):
        read_picture(url + "/jpeg/gone.jpg")
    with pytest.raises(EmptyFile):
        read_picture(url + "/jpeg/empty.jpg")


def test_a_file_over_the_limit_is_refused(url: str) -> None:
    uri = next(image.uri for image in Walk(open_source(url)) if image.uri.endswith(".png"))
    size = len(read_file(uri, limit=1 << 30).data)
    assert len(read_file(uri, limit=size).data) == size
    with pytest.raises(FileTooLarge):
        read_picture(uri, limits=Limits(max_file_bytes=size - 1))


def test_a_server_that_fails_briefly_is_asked_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.files.remote._PAUSES", (0.01, 0.01))
    with web_server(study) as address:
        uri = next(image.uri for image in Walk(open_source(address)) if image.uri.endswith(".png"))
        WebServer.failures = 2
        assert read_picture(uri).digest
        WebServer.failures = 9
        with pytest.raises(FileUnreadable):
            read_picture(uri)
        with pytest.raises(SourceUnreadable):
            list(Walk(open_source(address)))


def test_links_that_leave_a_folder_are_not_followed(tmp_path: Path) -> None:
    inner = tmp_path / "top" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "top" / "outside.jpg").write_bytes(b"\xff\xd8\xff")
    (inner / "inside.jpg").write_bytes(b"\xff\xd8\xff")
    links = (
        "../outside.jpg",
        "/outside.jpg",
        "http://elsewhere.example/a.jpg",
        "?C=M;O=D",
        "./",
        "inside.jpg",
    )
    (inner / "index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links))
    with web_server(tmp_path / "top") as address:
        found = [file.uri for file in list_files(address + "/inner", Omissions())]
        assert found == [address + "/inner/inside.jpg"]


def test_an_sftp_server_with_an_unknown_key_is_refused(sftp: SftpServer, study: Path, tmp_path: Path) -> None:
    make_ssh_user(tmp_path / "user", sftp, known=False)
    with pytest.raises(SourceUnreadable, match="SSHException"):
        list(Walk(open_source(f"sftp://reader@127.0.0.1:{sftp.port}{study}")))


def test_a_broken_sftp_connection_is_opened_again(
    sftp: SftpServer, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.files.remote._PAUSES", (0.01, 0.01))
    address = f"sftp://reader@127.0.0.1:{sftp.port}{study}"
    uri = next(image.uri for image in Walk(open_source(address)) if image.uri.endswith(".png"))
    assert read_picture(uri).digest
    sftp.cut()
    assert read_picture(uri).digest


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "memory://x",
        "zip://a.dcm::s3://bucket/x.zip",
        "s3://bucket/../other/x",
        "sftp://user:secret@host/x",
        "https://host/x?token=secret",
        "http:///x",
        "sftp://host:port/x",
    ],
)
def test_unsupported_and_ambiguous_addresses_are_refused(url: str) -> None:
    with pytest.raises(RemoteUrlInvalid) as caught:
        open_source(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(RemoteUrlInvalid):
        check_url(url)


def test_a_server_that_is_not_there_is_an_error_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.files.remote._PAUSES", (0.01, 0.01))
    with pytest.raises(PneumoscreenError) as caught:
        list(Walk(open_source("http://127.0.0.1:9/study")))
    assert caught.value.code == "source-unreadable"


@pytest.mark.parametrize(
    ("uri", "elsewhere", "expected"),
    [
        ("s3://study/a/b.dcm", {}, "s3://study/a/b.dcm"),
        ("s3://study/a/b.dcm", {"s3://study": "/mnt/study"}, "/mnt/study/a/b.dcm"),
        ("s3://study/a/b.dcm", {"s3://study/": "/mnt", "s3://study/a": "/a"}, "/a/b.dcm"),
        ("http://one/a.png", {"http://one": "https://two/x"}, "https://two/x/a.png"),
        ("s3://studying/b.dcm", {"s3://study": "/mnt"}, "s3://studying/b.dcm"),
        ("/data/a.png", {"/data": "/mnt/share"}, "/mnt/share/a.png"),
        ("/database/a.png", {"/data": "/mnt/share"}, "/database/a.png"),
    ],
)
def test_a_path_map_replaces_the_beginning_of_an_address(
    uri: str, elsewhere: dict[str, str], expected: str
) -> None:
    assert locate(uri, elsewhere) == expected


def test_an_image_without_a_suffix_is_found_in_the_bytes_that_are_fetched_anyway(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = next((phantoms / "jpeg").iterdir()).read_bytes()
    for name in ("a.jfif", "a.thm", "a", "a.txt"):
        (tmp_path / name).write_bytes(jpeg if name != "a.txt" else b"a text")
    fetched: dict[str, list[int]] = {}

    def read(uri: str, size: int, *, roots: Roots) -> bytes:
        fetched.setdefault(Path(uri).name, []).append(size)
        return read_start(uri, size, roots=roots)

    monkeypatch.setattr("scheduler.ingest.sources.remote.read_start", read)
    with web_server(tmp_path) as web:
        walk = Walk(open_source(web))
        assert sorted(Path(image.uri).name for image in walk) == ["a", "a.jfif", "a.thm"]
    # A file without a suffix may be DICOM, so its header is fetched with its first bytes.
    assert fetched == {"a.thm": [START_BYTES], "a.txt": [START_BYTES], "a": [_HEAD_BYTES]}
    assert walk.left_out.ignored_kinds == {".txt": 1}
