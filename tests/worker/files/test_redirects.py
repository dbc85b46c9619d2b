"""Redirects with roots set: no request leaves the roots, whatever a server inside them answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.batches import cut_batches
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import FileUnreadable, FileVanished, OutsideRoots
from db.tables import Image, LabelClass
from db.training.labels import Reading, add_readings
from scheduler.ingest import open_source
from scheduler.ingest.walk import Walk
from scheduler.labels import import_labels
from tests.pictures import read_picture
from tests.worker.files.servers import SftpServer, make_ssh_user
from training.data.sources import labelled_images
from training.plan import Plan
from training.recipe import find_recipe
from worker.files.access import is_available, list_files, read_file, read_start
from worker.files.omissions import Omissions
from worker.files.openers.s3 import OPENER as S3
from worker.files.roots import Roots
from worker.files.url import locate
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


class Server:
    """A web server that redirects some paths, lists its folder and has no files."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.requests: list[str] = []
        #: The `Location` header by path; `*` stands for every other path.
        self.sends: dict[str, str] = {}
        self.status = 302
        self.headers: dict[str, str] = {}
        self.body = b""
        listing = "".join(f'<a href="{name}">x</a>' for name in names).encode()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(f"{self.command} {self.path}")
                path = self.path.partition("?")[0]
                to = outer.sends.get(path, outer.sends.get("*"))
                is_folder = path in ("/trial/", "/trial/ward/")
                page = listing if path == "/trial/" else b'<a href="c.jpg">x</a>'
                content = outer.body if to else page if is_folder else b""
                self.send_response(outer.status if to else 200 if is_folder else 404)
                if to:
                    self.send_header("Location", to)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running(*names: str) -> Iterator[Server]:
    server = Server(names)
    yield server
    server.close()


@pytest.fixture
def outside() -> Iterator[Server]:
    """Run a server outside the roots that records its requests; there must be none."""
    with running("a.jpg") as server:
        yield server


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a server whose folder lists two missing images, and make this folder the only root."""
    monkeypatch.setattr("worker.files.remote._PAUSES", (0.01, 0.01))
    with running("a.jpg", "b.dcm", "ward/") as server:
        monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{server.url}/trial"]')
        yield server


def ask_everything(address: str, roots: Roots) -> None:
    """Send every kind of request to an address."""
    asked: tuple[Callable[[], object], ...] = (
        lambda: list(list_files(f"{address}/", Omissions(), roots=roots)),
        lambda: list(list_files(address, Omissions(), roots=roots)),
        lambda: read_file(f"{address}/a.jpg", limit=1 << 20, roots=roots),
        lambda: read_start(f"{address}/b.dcm", 132, roots=roots),
        lambda: is_available(address, roots=roots),
        lambda: is_available(f"{address}/a.jpg", roots=roots),
        lambda: read_picture(f"{address}/a.jpg", roots=roots),
    )
    for ask in asked:
        with suppress(Exception):  # each protocol's library has errors of its own
            ask()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_request_follows_a_redirect_out_of_the_roots(inside: Server, outside: Server, status: int) -> None:
    inside.status, inside.sends = status, {"*": f"{outside.url}/latest/meta-data/"}
    ask_everything(f"{inside.url}/trial", Roots.read())
    assert {one.partition(" ")[0] for one in inside.requests} == {"GET", "HEAD"}
    assert outside.requests == []


#: Addresses that different URL parsers read as addresses of different servers.
SPELLINGS = (
    "//127.0.0.1:{out}/x", "\thttp://127.0.0.1:{out}/x", "http:\\\\127.0.0.1:{out}\\x",
    "/\\127.0.0.1:{out}/x", "http:/127.0.0.1:{out}/x", "http:127.0.0.1:{out}/x", "HTTP://127.0.0.1:{out}/x",
    "http://127.0.0.1:{inn}@127.0.0.1:{out}/trial/x", "http://127.0.0.1:{out}#@127.0.0.1:{inn}/trial/",
    "http://127.0.0.1:{out}\\@127.0.0.1:{inn}/trial/x", "http://127.0.0.1:{out}/trial/x?http://127.0.0.1:{inn}/trial",
    "http://2130706433:{out}/trial/x", "http://[::ffff:127.0.0.1]:{out}/trial/x", "ht\ttp://127.0.0.1:{out}/trial",
    "http://localhost:{out}/trial/x", "http://127.0.0.1:{out}/", "ftp://127.0.0.1:{out}/trial", "file:///etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_redirect_leads_out(inside: Server, outside: Server, spelling: str) -> None:
    inside.sends = {"*": spelling.format(out=outside.port, inn=inside.port)}
    ask_everything(f"{inside.url}/trial", Roots.read())
    assert inside.requests
    assert outside.requests == []


@pytest.mark.parametrize(
    "to", ["/other/", "/trial/../other/", "/trial/%2e%2e/other/", "/trial/%252e%252e/x/"]
)
def test_a_redirect_to_another_folder_of_the_same_server_is_not_followed(inside: Server, to: str) -> None:
    inside.sends = {"/trial/a.jpg": to, "/trial/": to, "/trial": to}
    ask_everything(f"{inside.url}/trial", Roots.read())
    assert {one.rpartition(" ")[2] for one in inside.requests} <= {
        "/trial", "/trial/", "/trial/a.jpg", "/trial/b.dcm",
    }  # fmt: skip


def test_a_second_redirect_is_checked_against_the_roots_like_the_first(
    inside: Server, outside: Server
) -> None:
    inside.sends = {"/trial/a.jpg": "/trial/b.jpg", "/trial/b.jpg": f"{outside.url}/a.jpg"}
    with pytest.raises(OutsideRoots):
        read_picture(f"{inside.url}/trial/a.jpg", roots=Roots.read())
    assert "GET /trial/b.jpg" in inside.requests
    assert outside.requests == []


def test_ingest_sends_no_request_outside_the_roots(inside: Server, outside: Server) -> None:
    away = f"{outside.url}/a.jpg"
    inside.sends = {"/trial/b.dcm": away}
    ends = {Path(image.uri).name: image.problem for image in Walk(open_source(f"{inside.url}/trial"))}
    assert ends == {"a.jpg": None, "b.dcm": "outside-roots", "c.jpg": None}
    inside.sends = {"/trial/ward/": away}
    with pytest.raises(PneumoscreenError, match="ROOTS"):
        list(Walk(open_source(f"{inside.url}/trial")))
    assert outside.requests == []


@pytest.mark.usefixtures("model")
def test_a_missing_image_fails_if_its_folder_is_redirected_and_no_request_leaves_the_roots(
    database: Database, inside: Server, outside: Server
) -> None:
    for path in ("/trial", "/trial/"):
        inside.sends[path] = f"{outside.url}/latest/meta-data/"
    inside.sends["/trial/sent.jpg"] = f"{outside.url}/a.jpg"
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=f"{inside.url}/trial")
        names = ("gone.jpg", "sent.jpg")
        add_images(session, cohort.id, [NewImage(uri=f"{inside.url}/trial/{name}") for name in names])
        mark_ready(session, cohort.id)
        (batch,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
    Screener(database, WorkerSettings()).screen(batch)
    with database.read() as session:
        ends = [image.problem for image in session.query(Image).order_by(Image.id)]
    assert ends == ["file-vanished", "outside-roots"]
    assert outside.requests == []


def test_labels_and_training_send_no_request_outside_the_roots(
    database: Database, inside: Server, outside: Server, tmp_path: Path
) -> None:
    url = f"{inside.url}/trial/a.jpg"
    inside.sends = {"*": f"{outside.url}/a.jpg"}
    (tmp_path / "labels.csv").write_text(f"path,class\n{url},NORMAL\n")
    assert [one.row for one in import_labels(database, tmp_path / "labels.csv", skip_bad=True).bad] == [2]
    reading = Reading(
        digest="0" * 64, instance_uid=None, uri=url, patient_key=None, class_name=LabelClass.NORMAL,
        reader="r", read_on="", source="s",
    )  # fmt: skip
    with database.write() as session:
        add_readings(session, [reading])
    plan = Plan(recipe=find_recipe("thesis"), data=None, use_labels=True)
    assert not any(image.path.exists() for image in labelled_images(database, plan))
    assert outside.requests == []


def test_a_source_outside_the_roots_is_neither_probed_nor_waited_for(
    inside: Server, outside: Server, tmp_path: Path
) -> None:
    assert is_available(f"{outside.url}/trial", roots=Roots.read())
    assert is_available(str(tmp_path), roots=Roots((str(tmp_path / "elsewhere"),)))
    mapped = locate(f"{inside.url}/trial", {inside.url: outside.url})
    assert mapped == f"{outside.url}/trial"
    assert is_available(mapped, roots=Roots.read())
    assert (outside.requests, inside.requests) == ([], [])
    assert not is_available("http://127.0.0.1:9/trial", roots=Roots(("http://127.0.0.1:9",)))
    assert not is_available(f"{inside.url}/trial/nowhere", roots=Roots.read())


def test_a_root_may_have_a_user_or_a_host_name_in_another_script() -> None:
    from yarl import URL

    from worker.files.openers.http import is_inside, spellings, without_users

    roots = without_users(Roots(("https://reader@host/x", "https://krankenhäuser.example/x")))
    for url in ("https://host/x/a.jpg", "https://krankenhäuser.example/x/a name.jpg"):
        assert any(is_inside(one, roots) for one in spellings(URL(url)))
    for url in ("https://host/y", "https://krankenhauser.example/x", "https://krankenhäuser.example/y"):
        assert not any(is_inside(one, roots) for one in spellings(URL(url)))


@pytest.fixture
def s3_inside(inside: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Use the server inside the roots as an S3 endpoint."""
    for name, value in {
        "AWS_ENDPOINT_URL": inside.url,
        "AWS_ACCESS_KEY_ID": "for-tests",
        "AWS_SECRET_ACCESS_KEY": "for-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", '["s3://trial"]')
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    S3.disconnect()
    yield inside
    S3.disconnect()


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("region", ["", "eu-west-1"])
def test_a_redirect_of_an_s3_server_to_another_server_is_not_followed(
    s3_inside: Server, outside: Server, status: int, region: str
) -> None:
    s3_inside.status, s3_inside.sends = status, {"*": f"{outside.url}/latest/meta-data/"}
    s3_inside.headers = {"x-amz-bucket-region": region} if region else {}
    s3_inside.body = (
        f"<Error><Code>PermanentRedirect</Code><Endpoint>127.0.0.1:{outside.port}</Endpoint></Error>".encode()
    )
    ask_everything("s3://trial/x", Roots.read())
    assert {one.partition(" ")[0] for one in s3_inside.requests} == {"GET", "HEAD"}
    assert outside.requests == []


def test_links_on_an_sftp_server_do_not_lead_out_of_the_roots(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr("worker.files.remote._PAUSES", (0.01, 0.01))
    folder, secret = tmp_path / "images", tmp_path / "secret"
    for place in (folder, secret):
        place.mkdir()
        (place / "a.jpg").write_bytes(next((phantoms / "jpeg").iterdir()).read_bytes())
    (folder / "out.jpg").symlink_to(secret / "a.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "ward").symlink_to(secret)
    (tmp_path / "mount").symlink_to(folder)
    server = SftpServer()
    make_ssh_user(tmp_path / "user", server, known=True)
    host = f"sftp://reader@127.0.0.1:{server.port}"
    monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", f'["{host}{tmp_path}/mount"]')
    roots, mount = Roots.read(), f"{host}{tmp_path}/mount"
    try:
        assert read_picture(f"{mount}/a.jpg", roots=roots).digest
        assert read_picture(f"{mount}/in.jpg", roots=roots).digest
        for name in ("out.jpg", "ward/a.jpg"):
            assert read_picture(f"{mount}/{name}", roots=Roots()).digest
            with pytest.raises(OutsideRoots):
                read_picture(f"{mount}/{name}", roots=roots)
        with pytest.raises(OutsideRoots):
            list(list_files(f"{mount}/ward", Omissions(), roots=roots))
        assert is_available(f"{mount}/ward", roots=roots)
        assert not is_available(f"{mount}/nowhere", roots=roots)
        assert is_available(mount, roots=roots)
        ends = {Path(image.uri).name: image.problem for image in Walk(open_source(mount))}
        assert ends == {"a.jpg": None, "in.jpg": None, "out.jpg": None, "ward": "outside-roots"}
        with pytest.raises((FileVanished, FileUnreadable)):
            read_picture(f"{mount}/gone.jpg", roots=roots)
    finally:
        server.close()
