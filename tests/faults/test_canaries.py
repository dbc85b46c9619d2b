"""Leaks: patient data stays in the job table and passwords stay in their files, even after faults.

The whole program runs once, on images full of canaries and with faults. Then every byte of its output is
searched: what commands print, logs, the broker's traffic, Flower, metrics, results, summaries, the processes'
arguments, and all files of the data directory except the job table.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from db.engine import Database
from db.settings import DatabaseSettings
from tests import commands
from tests.conftest import postgres_url
from tests.faults.canaries import BIRTH_DATE, WORD, film, find, plant, word
from tests.installation import ADMINISTRATOR, administrator
from tests.pictures import small_film
from tests.waiting import wait_for

#: All tests here share one run of the program, so they run in one process.
pytestmark = pytest.mark.xdist_group("canaries")

#: The password of the database's user. The tests' server needs none, but clients send it all the same.
DATABASE_PASSWORD = "qz-database-password"  # noqa: S105

NIGHTLY = """
[[nightly]]
name = "ward"
source = "{ward}"
[[nightly]]
name = "trap"
source = "{trap}"
"""


class Run:
    """An installation and all of its output."""

    def __init__(self, folder: Path, database_url: str, *, log_format: str) -> None:
        self.folder, self.home = folder, folder / "home"
        self.database_url = database_url or f"sqlite:///{self.home / 'pneumoscreen.db'}"
        self.came_out: dict[str, bytes] = {}
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PNEUMOSCREEN_")}
        settings = {
            "HOME": self.home,
            "CONFIG": folder / "pneumoscreen.toml",
            "DATABASE_URL": database_url,
            "LEASE_SECONDS": 3,
            "SWEEP_SECONDS": 1,
            "DISPATCH_SECONDS": 0.5,
            "RING_AGAIN_SECONDS": 2,
            "NIGHTLY_SECONDS": 1,
            "DECODE_SECONDS": 3,
            "LOG_FORMAT": log_format,
        }
        self.environment = ours | {f"PNEUMOSCREEN_{name}": str(value) for name, value in settings.items()}

    def __call__(self, *arguments: str, expect: int | None = 0) -> str:
        """Run a command and record what it prints; return standard output."""
        done = commands.run(*arguments, expect=expect, environment=self.environment)
        self.came_out[f"{len(self.came_out)}: {' '.join(arguments)}"] = (done.stdout + done.stderr).encode(
            errors="surrogateescape"
        )
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def secret(self, name: str) -> str:
        return (self.home / "secrets" / f"pneumoscreen_{name}").read_text()

    def pids(self) -> dict[str, int]:
        found = re.findall(r"^\s*(\w+) +RUNNING +(\d+)", self("up"), re.MULTILINE)
        return {name: int(pid) for name, pid in found}

    def log(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def finished(self, cohort: str) -> bool:
        return bool(self.json("status", cohort)[0]["finished"])

    def forbid(self, name: str) -> None:
        """Make the database refuse images of such a name; PostgreSQL's error quotes the whole row."""
        settings = DatabaseSettings(database_url=SecretStr(self.database_url))
        database = Database(settings)
        with database.write() as session:
            session.connection().exec_driver_sql(
                f"ALTER TABLE images ADD CONSTRAINT trap CHECK (strpos(uri, '{name}') = 0) NOT VALID"
                if self.database_url.startswith("postgresql")
                else f"CREATE TRIGGER trap BEFORE INSERT ON images WHEN instr(NEW.uri, '{name}')"
                " BEGIN SELECT RAISE(ABORT, 'trapped'); END"
            )
        database.close()

    # -- output that is visible from outside

    def administrator(self) -> Redis:
        """Return a connection to the broker with the rights of an administrator."""
        return administrator(urlsplit(self.secret("broker_url")).port or 0)

    def administer(self) -> None:
        """Add an administrator to the broker's configuration, and restart the broker."""
        with (self.home / "run" / "valkey.conf").open("a") as file:
            file.write(f"{ADMINISTRATOR}\n")
        os.kill(self.pids()["broker"], signal.SIGKILL)

        def is_back() -> bool:
            with suppress(RedisError):
                return bool(self.administrator().ping())
            return False

        wait_for(is_back)

    def listen(self) -> None:
        """Record every command that the broker receives."""
        broker, commands = self.administrator(), bytearray()

        def note() -> None:
            with suppress(RedisError, OSError), broker.monitor() as monitor:
                for command in monitor.listen():
                    commands.extend(str(command["command"]).encode() + b"\n")
                    self.came_out["broker: traffic"] = bytes(commands)

        threading.Thread(target=note, daemon=True).start()

    def look(self) -> None:
        """Record what the pages, the broker and the processes show now."""
        up = self.json("up")
        user = f"{up['flower_user']}:{self.secret('flower_password')}"
        login = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
        tasks = self._ask(up["flower"] + "/api/tasks?limit=10000", login)
        failed = [name for name, task in json.loads(tasks).items() if task["state"] == "FAILURE"]
        pages = ["workers", "tasks", "broker", "api/workers?refresh=1", "api/queues/length", "api/task/types"]
        pages += [f"{kind}/{one}" for one in failed[:3] for kind in ("task", "api/task/info")]
        for page in pages:
            self._ask(f"{up['flower']}/{page}", login)
        self._ask(up["metrics"], {})
        broker = Redis.from_url(self.secret("broker_url"))
        for key in broker.scan_iter():
            kind = broker.type(key).decode()
            reads = {
                "string": lambda key=key: broker.get(key),
                "list": lambda key=key: broker.lrange(key, 0, -1),
                "hash": lambda key=key: broker.hgetall(key),
                "set": lambda key=key: broker.smembers(key),
                "zset": lambda key=key: broker.zrange(key, 0, -1),
            }
            with suppress(RedisError):
                self.came_out[f"broker: {key!r}"] = key + str(reads[kind]()).encode()
        for name, pid in self.pids().items():
            self.came_out[f"argv: {name}"] = Path(f"/proc/{pid}/cmdline").read_bytes()

    def _ask(self, url: str, headers: dict[str, str]) -> bytes:
        with suppress(urllib.error.HTTPError):
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
                self.came_out[url] = bytes(answer.read())
            return self.came_out[url]
        return b""

    def files(self) -> dict[Path, bytes]:
        """Return the files of the data directory that hold neither the job table nor weights."""
        return {
            path: path.read_bytes()
            for path in self.home.rglob("*")
            if path.is_file()
            and not path.name.startswith("pneumoscreen.db")
            and path.suffix != ".safetensors"
        }


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], ids=str
)
def run(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    artefact: Path,
    other_artefact: Path,
) -> Iterator[Run]:
    """Run the whole program, with faults."""
    folder, url = tmp_path_factory.mktemp("canaries"), ""
    if request.param == "postgresql":
        url = postgres_url(request.getfixturevalue("postgres"), "canaries")
        url += f"{'&' if '?' in url else '?'}password={DATABASE_PASSWORD}"
    run = Run(folder, url, log_format="text" if request.param == "sqlite" else "json")
    images = folder / word("source")
    plant(images)
    film(folder / word("ward") / word("night") / "a.png", 1)
    film(folder / word("trap") / "b.png", 2)
    (folder / "pneumoscreen.toml").write_text(
        NIGHTLY.format(ward=folder / word("ward"), trap=folder / word("trap"))
    )
    old = os.umask(0)  # the most permissive umask
    try:
        _screen(run, images, artefact, other_artefact)
        _poison(run, folder / word("poison"))
        if request.param == "postgresql":
            _disconnect(run, request.getfixturevalue("postgres"), folder / word("unplugged"))
        _night(run)
        _fail(run, images)
        _label(run, images)
        if request.param == "postgresql":
            _train(run)
        run.look()
        for command in (("status",), ("status", "--json"), ("status", "trial"), ("audit",)):
            run(*command)
        for command in (("audit", "--json"), ("audit", "--verify"), ("models", "list"), ("runs",)):
            run(*command)
        run("doctor", "--json", expect=None)  # the machine's disk may be nearly full
        run("db", "backup", str(folder / "backup.tar"))
    finally:
        run("down")
        os.umask(old)
    yield run


def _screen(run: Run, images: Path, artefact: Path, other: Path) -> None:
    """Screen images while a worker is killed, the broker is flushed and a model's weights are replaced."""
    for model in (artefact, other):
        run("models", "import", str(model))
    run("models", "promote", artefact.name, "--yes")
    run("up")
    run.administer()
    run.listen()
    gone = film(images / word("vanished.png"), 3)
    worker = run.pids()["worker"]
    os.kill(worker, signal.SIGSTOP)
    run("submit", str(images), "--cohort", "trial")
    gone.unlink()
    os.kill(worker, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    run.administrator().flushall()
    run("watch", "trial", expect=1)
    (run.home / "models" / other.name / "model.safetensors").write_bytes(word("weights").encode())
    run("submit", str(images), "--cohort", "swapped", "--model", other.name)
    wait_for(lambda: "ModelDigestMismatch" in run.log("worker"))
    run("cancel", "swapped")
    run("screen", str(images), expect=1)
    for suffix in ("csv", "json", "parquet"):
        run("results", "trial", "--out", str(run.folder / f"closed.{suffix}"))
        run.came_out[f"results.{suffix}"] = (run.folder / f"closed.{suffix}").read_bytes()
    run("results", "trial", "--out", str(run.folder / "closed.xlsx"))
    with zipfile.ZipFile(run.folder / "closed.xlsx") as workbook:
        run.came_out |= {f"results.xlsx: {part}": workbook.read(part) for part in workbook.namelist()}
    run("results", "trial", "--accession")
    for image in range(1, 4):
        run("show", "image", str(image))
        run("show", "image", str(image), "--json")
    run("results", "trial", "--out", str(run.folder / "open.csv"), "--identifiers")
    run("retry", "trial")
    wait_for(lambda: run.finished("trial"))


def _poison(run: Run, images: Path) -> None:
    """Screen images whose decoders hang or die."""
    for number in range(6):
        film(images / word("p") / f"{word('hang')}-{number}.png", 40 + number)
    threads = Path(f"/proc/{run.pids()['worker']}/task").glob("*/children")
    dead, *stopped = (int(child) for children in threads for child in children.read_text().split())
    os.kill(dead, signal.SIGKILL)
    for decoder in stopped:
        os.kill(decoder, signal.SIGSTOP)
    run("screen", str(images), "--cohort", "poison", expect=1)
    assert run.json("status", "poison")[0]["failed"] == len(stopped) > 0


def _disconnect(run: Run, server: Any, images: Path) -> None:
    """Screen while the database terminates all sessions repeatedly."""
    for number in range(30):
        film(images / f"{word('cut')}-{number}.png", 60 + number)
    run("submit", str(images), "--cohort", "unplugged")
    while not run.finished("unplugged"):
        server.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'canaries' AND pid <> pg_backend_pid()"
        )


def _night(run: Run) -> None:
    """Run a night of a source, and of one whose images the database refuses."""
    run.forbid(word("trap"))
    run("nightly", "run", "ward")
    run("nightly", "run", "trap")
    wait_for(lambda: list((run.home / "nightly").glob("ward-*.html")))
    wait_for(lambda: re.search(r"ingest\.night\S+ raised|nightly run \d+: ", run.log("housekeeping")))
    run("nightly", "history")


def _fail(run: Run, images: Path) -> None:
    """Run commands with arguments that they must refuse."""
    missing = str(run.folder / word("missing"))
    run("submit", str(run.folder / word("trap")), "--cohort", "trap", expect=None)
    for command in (
        ("submit", missing, "--cohort", "none"),
        ("submit", f"http://127.0.0.1:1/{word('url')}/", "--cohort", "none"),
        ("submit", f"s3://{word('user')}:secret@host/x", "--cohort", "none"),
        ("screen", str(images), "--out", f"{missing}/r.csv"),
        ("results", "trial", "--out", str(images) + ".csv/x.csv"),
        ("models", "import", missing),
        ("db", "restore", missing),
        ("db", "backup", f"{missing}/b.tar"),
    ):
        run(*command, expect=2)
    # Ingest accepts a raster by its name; the worker finds that the server does not exist.
    run("submit", f"http://127.0.0.1:1/{word('url')}.jpg", "--cohort", "far")
    wait_for(lambda: "SourceAway" in run.log("worker") or run.finished("far"))
    run("cancel", "far")


def _label(run: Run, images: Path) -> None:
    """Import labels that are wrong, unreadable or in conflict."""
    good = next(path for path in images.rglob("*.png") if WORD in path.name.lower() and path.is_file())
    (run.folder / "bad.csv").write_text(
        "path,class,date,patient\n"
        f"{good},{word('class')},2024-01-01,{word('pid')}\n"
        f"{good},NORMAL,{word('date')},{word('pid')}\n"
        f"{images / word('lost.png')},NORMAL,,{word('pid')}\n"
        f"{good},NORMAL,,{word('pid')}\n"
    )
    (run.folder / "instances.csv").write_text(f"instance,class,reader\n{word('uid')},NORMAL,A\n")
    (run.folder / "other.csv").write_text(f"path,class,reader\n{good},PNEUMONIA,B\n")
    (run.folder / "no.csv").write_text(f"{word('header')},{word('patient')}\n1,2\n")
    for file in ("bad", "instances", "no"):
        run("labels", "import", str(run.folder / f"{file}.csv"), expect=2)
    run("labels", "import", str(run.folder / "bad.csv"), "--skip-bad")
    run("labels", "import", str(run.folder / "other.csv"), "--json")
    assert "PNEUMONIA" in run("labels", "conflicts")
    run("labels", "conflicts", "--json")
    run("labels", "list")


def _train(run: Run) -> None:
    """Retrain on the training queue, once on good images and once on unreadable ones."""
    for command in ("evaluate", "retrain"):
        run(command, str(run.folder / word("missing")), expect=2)
    for name, good in (("labelled", True), ("unreadable", False)):
        data = run.folder / word(name)
        for label in ("NORMAL", "PNEUMONIA"):
            for number in range(24):
                file = film(data / label / f"{word(label)}-{number}.png", number + 100 * len(label))
                if not good:
                    file.write_text(word("content"))
        number = run.json(
            "retrain", str(data), "--recipe", "thesis", "--backbones", "resnet18", "--epochs", "1",
            "--random-weights", "--queue",
        )["run"]  # fmt: skip

        def ended(number: int = number) -> bool:
            (found,) = (one for one in run.json("runs") if one["run"] == number)
            return found["state"] in ("done", "failed")

        wait_for(ended, 300)


def test_no_patient_data_leaves_the_job_table(run: Run) -> None:
    everything = run.came_out | {str(path): content for path, content in run.files().items()}
    leaks = [f"{name} has {found}" for name, content in everything.items() for found in find(content)]
    assert not leaks, f"{len(leaks)} leaks, among them\n" + "\n".join(leaks[:20])


def test_the_searched_output_covers_every_problem_and_channel(run: Run) -> None:
    assert find((run.folder / "open.csv").read_bytes()), "identifiers that were asked for are missing"
    problems = run.came_out
    text = b"".join(problems.values()).decode(errors="replace")
    for code in (
        "corrupt-image",
        "not-an-image",
        "file-vanished",
        "file-unreadable",
        "empty-file",
        "not-chest",
        "decoder-timeout",
    ):
        assert code in text, f"no image was {code}"
    assert "broker: traffic" in problems
    assert b"screen.batch" in problems["broker: traffic"]
    assert any("/api/tasks" in name and b"screen.batch" in page for name, page in problems.items())
    assert "raised" in run.log("worker")
    assert "database-failed" in run.log("housekeeping"), "the database refused no image"


def test_the_job_table_contains_no_patient_identifiers(run: Run) -> None:
    with tarfile.open(run.folder / "backup.tar") as archive:
        tables = {
            name: gzip.decompress(archive.extractfile(name).read())  # type: ignore[union-attr]
            for name in archive.getnames()
            if name.startswith("tables/")
        }
    content = b"".join(tables.values())
    assert word("folder").encode() in tables["tables/images.jsonl.gz"]
    for name in ("patient", "accessi", "name", "private", "artist", "comment", "pid"):
        assert word(name).encode() not in content
    assert BIRTH_DATE.encode() not in content


def test_passwords_stay_in_their_files(run: Run) -> None:
    passwords = {
        "broker": run.secret("broker_url").split(":")[2].split("@")[0],
        "cookie": run.secret("flower_cookie_secret"),
        "database": DATABASE_PASSWORD,
    }
    kept = {run.home / "run" / "valkey.conf", *(run.home / "secrets").iterdir()}
    outside = {str(path): content for path, content in run.files().items() if path not in kept}
    for what, password in passwords.items():
        leaks = [name for name, content in (run.came_out | outside).items() if find(content, password)]
        assert leaks == [], f"the password of the {what} is in {leaks}"


def test_only_its_owner_can_access_the_data_directory(run: Run) -> None:
    written = [run.home, *run.home.rglob("*"), run.folder / "backup.tar", *run.folder.glob("closed.*")]
    assert len(written) > 30
    assert [str(path) for path in written if path.lstat().st_mode & 0o077] == []


def test_the_audit_log_records_each_action_and_its_actor(run: Run) -> None:
    name = next(name for name in run.came_out if name.endswith("audit --json"))
    events = json.loads(run.came_out[name])
    done = {event["action"] for event in events}
    assert {"cohort.submit", "cohort.cancel", "cohort.retry", "model.promote", "results.export"} <= done
    assert all(event["actor"] for event in events)
    exports = [event["detail"]["identifiers"] for event in events if event["action"] == "results.export"]
    assert sorted(exports) == [False, False, False, False, True]


def test_the_search_finds_a_canary_in_every_encoding_and_none_in_a_film() -> None:
    assert find(small_film(0).tobytes()) == set()
    for form in (
        word("x").encode(),
        base64.b64encode(b"--" + word("x").encode()),
        word("x").encode().hex().encode(),
    ):
        assert find(b'{"body": "' + form + b'"}'), "the search did not find it"
