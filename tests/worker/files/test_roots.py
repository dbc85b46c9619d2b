"""Source roots: no file outside them is read, neither at ingest nor by a worker nor in training."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import FileUnreadable, FileVanished, OutsideRoots
from db.settings import SettingsInvalid
from db.tables import Image
from scheduler.ingest import open_source
from scheduler.ingest.walk import Walk
from scheduler.labels import import_labels
from tests.pictures import read_picture
from tests.worker.files.servers import web_server
from training.data.pictures import read_pictures
from training.data.sources import labelled_images
from training.plan import Plan
from training.recipe import find_recipe
from worker.decoding.pool import DecoderPool
from worker.files.roots import Roots, SourceOutsideRoots
from worker.files.url import RemoteUrlInvalid, check_url
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.fixture
def jpeg(phantoms: Path) -> bytes:
    return next((phantoms / "jpeg").iterdir()).read_bytes()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantoms: Path, jpeg: bytes) -> Path:
    """Set a root that holds images; a folder and a file lie beside it, outside the root."""
    shutil.copytree(phantoms, tmp_path / "images" / "study")
    shutil.copytree(phantoms, tmp_path / "images-of-others")
    (tmp_path / "secret.jpg").write_bytes(jpeg)
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{tmp_path / "images"}"]')
    return tmp_path / "images"


def walk(where: Path) -> dict[str, NewImage]:
    return {Path(image.uri).name: image for image in Walk(open_source(str(where)))}


def test_a_source_inside_is_taken_in_whole(root: Path) -> None:
    images = list(Walk(open_source(str(root))))
    assert len(images) == len(list(Walk(open_source(str(root / "study"))))) == 10
    assert {image.problem for image in images} == {None}


@pytest.mark.parametrize("way", ["beside", "above", "climbing", "sibling", "link", "file", "url"])
def test_a_source_outside_is_refused(root: Path, way: str) -> None:
    (root / "link").symlink_to(root.parent / "images-of-others")
    where = {
        "beside": root.parent / "secret.jpg",
        "above": root.parent,
        "climbing": f"{root}/study/../../images-of-others",
        "sibling": f"{root}-of-others",
        "link": root / "link",
        "file": root / "link" / "jpeg",
        "url": "s3://bucket/trial",
    }[way]
    with pytest.raises(SourceOutsideRoots):
        open_source(str(where))


def test_a_link_out_of_the_roots_fails_with_its_code_and_the_other_files_are_taken_in(root: Path) -> None:
    inside = next((root / "study" / "jpeg").iterdir())
    (root / "links").mkdir()
    (root / "links" / "in.jpg").symlink_to(inside)
    for name in ("out.jpg", "IM0001", "1.2.840.1"):
        (root / "links" / name).symlink_to(root.parent / "secret.jpg")
    (root / "links" / "folder").symlink_to(root.parent / "images-of-others")
    assert {name: image.problem for name, image in walk(root / "links").items()} == {
        "in.jpg": None,
        "out.jpg": "outside-roots",
        "IM0001": "outside-roots",
        "1.2.840.1": "outside-roots",
    }


def test_a_root_may_be_a_link_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "mount").symlink_to(root)
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{root.parent / "mount"}"]')
    assert all(image.problem is None for image in walk(root.parent / "mount" / "study").values())
    assert read_picture(next((root / "study" / "jpeg").iterdir()), roots=Roots.read()).digest


def test_without_roots_links_are_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "out.jpg").symlink_to(root.parent / "secret.jpg")
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", "[]")
    assert walk(root)["out.jpg"].problem is None
    assert read_picture(root / "out.jpg", roots=Roots.read()).digest


def screened(database: Database, uris: list[str], *, before: Callable[[], None] = lambda: None) -> list[str]:
    """Store rows for addresses, call `before`, and screen; return each image's problem or state."""
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=uri) for uri in uris])
        mark_ready(session, cohort.id)
        batches = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
    before()
    pipeline = Screener(database, WorkerSettings(path_map={"/elsewhere": uris[0].rpartition("/")[0]}))
    for batch in batches:
        pipeline.screen(batch)
    with database.read() as session:
        return [image.problem or image.state for image in session.scalars(select(Image).order_by(Image.id))]


#: Addresses of a file outside the root, in each spelling that some library reads as a path.
SURPRISES = (
    "{secret}", "{root}/study/../../secret.jpg", "/elsewhere/../../../secret.jpg", "secret.jpg", "",
    "file://{secret}", "file://{root}/%2e%2e/secret.jpg", "FILE://{secret}", "file:{secret}",
    "file::{secret}", "local://{secret}", "memory://{secret}", "zip://1.dcm::{secret}",
    "simplecache::file://{secret}", "http://127.0.0.1:9/secret.jpg", "s3://bucket/secret.jpg",
)  # fmt: skip


@pytest.mark.usefixtures("model")
def test_a_worker_reads_nothing_outside_the_roots_whatever_the_job_table_says(
    database: Database, root: Path
) -> None:
    inside = str(next((root / "study" / "jpeg").iterdir()))
    secret = root.parent / "secret.jpg"
    surprises = [uri.format(secret=secret, root=root) for uri in SURPRISES]
    ends = screened(database, [inside, *surprises])
    assert ends == ["done", *["outside-roots"] * len(SURPRISES)]


@pytest.mark.usefixtures("model")
def test_a_worker_follows_no_link_that_was_put_there_after_ingest(
    database: Database, root: Path, jpeg: bytes
) -> None:
    (root / "ward").mkdir()
    paths = [root / "still.jpg", root / "swapped.jpg", root / "ward" / "1.jpg"]
    for path in paths:
        path.write_bytes(jpeg)
    assert {image.problem for image in walk(root).values()} == {None}
    (root.parent / "images-of-others" / "1.jpg").write_bytes(jpeg)

    def swap() -> None:
        (root / "swapped.jpg").unlink()
        (root / "swapped.jpg").symlink_to(root.parent / "secret.jpg")
        shutil.rmtree(root / "ward")
        (root / "ward").symlink_to(root.parent / "images-of-others")

    assert screened(database, [str(path) for path in paths], before=swap) == [
        "done", "outside-roots", "outside-roots",
    ]  # fmt: skip


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_is_put_there_between_the_check_and_the_opening_is_not_followed(
    root: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    (root / "ward").mkdir()
    (root / "ward" / "1.jpg").write_bytes(jpeg)
    (root.parent / "images-of-others" / "1.jpg").write_bytes(jpeg)
    real = os.path.realpath

    def slow(path: str) -> str:
        found = real(path)
        if Path(path).name == "1.jpg":
            shutil.rmtree(root / "ward")
            if swapped == "folder":
                (root / "ward").symlink_to(root.parent / "images-of-others")
            else:
                (root / "ward").mkdir()
                (root / "ward" / "1.jpg").symlink_to(root.parent / "secret.jpg")
        return found

    monkeypatch.setattr(os.path, "realpath", slow)
    with pytest.raises((FileUnreadable, FileVanished)):
        read_picture(root / "ward" / "1.jpg", roots=Roots.read())


def test_labels_follow_no_link_that_is_put_there_between_the_check_and_the_opening(
    database: Database, root: Path, tmp_path: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = root / "1.jpg"
    image.write_bytes(jpeg)
    (tmp_path / "labels.csv").write_text(f"path,class\n{image},NORMAL\n")
    real = os.path.realpath

    def slow(path: str) -> str:
        found = real(path)
        if Path(path) == image:
            image.unlink()
            image.symlink_to(root.parent / "secret.jpg")
        return found

    monkeypatch.setattr(os.path, "realpath", slow)
    assert [one.row for one in import_labels(database, tmp_path / "labels.csv", skip_bad=True).bad] == [2]
    assert image.is_symlink()


@contextmanager
def redirecting_server(to: str, *, header: str = "Location") -> Iterator[str]:
    """Redirect every request to an address."""

    class Redirects(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header(header, to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("header", ["Location", "URI"])
def test_a_redirect_is_followed_inside_the_roots_and_refused_if_it_leaves_them(
    phantoms: Path, header: str
) -> None:
    name = next((phantoms / "jpeg").iterdir()).name
    with (
        web_server(phantoms) as images,
        redirecting_server(f"{images}/jpeg/{name}", header=header) as redirecting,
    ):
        asked = f"{redirecting}/trial/a.jpg"
        there = read_picture(f"{images}/jpeg/{name}").digest
        assert read_picture(asked).digest == there, "without roots every redirect is followed"
        assert read_picture(asked, roots=Roots((redirecting, images))).digest == there
        for roots in (Roots((redirecting,)), Roots((redirecting, f"{images}/png"))):
            with pytest.raises(OutsideRoots):
                read_picture(asked, roots=roots)
            with pytest.raises(OutsideRoots):
                roots.check_url(f"{images}/jpeg/{name}")


def test_a_redirect_without_a_target_is_refused_as_outside_the_roots() -> None:
    with redirecting_server("", header="X-Nothing") as redirecting, pytest.raises(OutsideRoots):
        read_picture(f"{redirecting}/trial/a.jpg", roots=Roots((redirecting,)))


def test_a_listing_that_redirects_out_of_the_roots_is_refused(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(phantoms) as images, redirecting_server(f"{images}/jpeg/") as redirecting:
        monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{redirecting}"]')
        with pytest.raises(SourceOutsideRoots):
            list(Walk(open_source(redirecting)))


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("s3://bucket/trial-7/a.dcm", True),
        ("s3://bucket/trial-7", True),
        ("s3://bucket/trial-77/a.dcm", False),
        ("s3://bucket/trial-7/../other/a.dcm", False),
        ("s3://bucket/trial-7/%2e%2e/other/a.dcm", False),
        ("s3://bucket/trial-7/%252E%252E/other/a.dcm", False),
        ("s3://bucket/trial-7/..%2fother/a.dcm", False),
        ("s3://bucket/trial-7/..%5Cother/a.dcm", False),
        ("s3://other/trial-7/a.dcm", False),
        ("http://bucket/trial-7/a.dcm", False),
        ("https://host/x/a.png", True),
        ("https://host:443/x/a.png", True),
        ("https://host:444/x/a.png", False),
        ("http://host/x/a.png", False),
        ("https://host.evil.example/x/a.png", False),
        ("https://host@evil.example/x/a.png", False),
        ("https://evil.example\\@host/x/a.png", False),
        ("https://host/x/?to=/y", False),
        ("HTTPS://host/x/a.png", False),
        ("sftp://anyone@server/x/a.png", True),
        ("sftp://server:2222/x/a.png", False),
        ("file:///x/a.png", False),
        ("https://host/x/a.zip::file:///etc/passwd", False),
    ],
)
def test_a_url_lies_in_a_root_by_whole_folders_of_the_same_server(url: str, inside: bool) -> None:
    roots = Roots(("s3://bucket/trial-7", "https://host/x/", "sftp://server/x"))
    if inside:
        roots.check_url(url)
    else:
        with pytest.raises(OutsideRoots):
            roots.check_url(url)


@pytest.mark.parametrize("path", ["%2e%2e/x", "a/%2E%2e/x", "%252e%252e/x", "..%2fx", "..%5cx"])
def test_a_url_with_percent_encoded_parent_folders_is_refused_with_and_without_roots(path: str) -> None:
    with pytest.raises(RemoteUrlInvalid):
        check_url(f"https://host/study/{path}")


def test_labels_name_no_file_outside_the_roots(
    database: Database, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = next((root / "study" / "jpeg").iterdir())
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(
        f"path,class\n{inside},NORMAL\n{tmp_path / 'secret.jpg'},NORMAL\n{root / 'out.jpg'},NORMAL\n"
    )
    assert [one.row for one in import_labels(database, table, skip_bad=True).bad] == [3, 4]
    plan = Plan(recipe=find_recipe("thesis"), data=None, use_labels=True)
    assert [image.path for image in labelled_images(database, plan)] == [inside]
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{tmp_path / "moved"}"]')
    assert labelled_images(database, plan) == []
    with pytest.raises(SourceOutsideRoots):
        labelled_images(database, plan.model_copy(update={"data": root}))


def test_training_follows_no_link_that_was_put_there_after_the_check(
    database: Database, root: Path, tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, fetched = sorted((root / "study" / "jpeg").iterdir())[:2]
    swapped = root / "data" / "NORMAL" / "1.jpg"
    swapped.parent.mkdir(parents=True)
    swapped.write_bytes(stays.read_bytes() + b"\0")
    (root / "label.jpg").write_bytes(stays.read_bytes() + b"\1")
    with web_server(phantoms) as web:
        monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{root}", "{web}"]')
        table = tmp_path / "labels.csv"
        url = f"{web}/jpeg/{fetched.name}"
        table.write_text(f"path,class\n{stays},NORMAL\n{root / 'label.jpg'},NORMAL\n{url},NORMAL\n")
        import_labels(database, table)
        recipe = find_recipe("thesis")
        images = labelled_images(database, Plan(recipe=recipe, data=root / "data", use_labels=True))
    for path in (swapped, root / "label.jpg"):
        path.unlink()
        path.symlink_to(tmp_path / "secret.jpg")
    with DecoderPool(WorkerSettings.read()) as decoders:
        pictures = read_pictures(images, decoders)
    assert [image.path.name for image in pictures.images] == [stays.name, fetched.name]
    assert {image.path: problem.code for image, problem in pictures.unreadable} == {
        swapped: "outside-roots",
        root / "label.jpg": "outside-roots",
    }


@pytest.mark.parametrize(
    "root", ["images", "/images/../etc", "ftp://host/x", "s3://bucket?x=1", "file:///images"]
)
def test_a_root_that_cannot_be_checked_is_refused_at_start(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{root}"]')
    with pytest.raises(SettingsInvalid, match="SOURCE_ROOTS"):
        Roots.read()
