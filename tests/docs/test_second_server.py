"""The page for IT opens the database to a second server: what it writes is given to a real PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.docs.pages import ROOT, blocks
from tests.faults.proxy import free_port
from tests.waiting import wait_for

PAGE = (ROOT / "docs" / "it.md").read_text()
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
#: The user that runs PostgreSQL if the tests run as root, which it refuses.
NOBODY = 65534


def written(name: str) -> str:
    """Return what the page's commands write into a file."""
    found = re.search(rf"^cat >+ {re.escape(name)} <<'END'\n(.*?)^END$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def as_server() -> list[str]:
    """Return what to put before a command of PostgreSQL."""
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.fixture
def database_url(as_server: list[str]) -> Iterator[str]:
    """Run PostgreSQL with the page's lines; give the URL that the page makes, with this machine's address."""
    folder = Path(tempfile.mkdtemp(prefix="pneumoscreen-second-"))
    folder.chmod(0o755)
    shutil.copy(ROOT / "deploy" / "make-secrets.sh", folder)
    (make,) = re.findall(r"^deploy/(make-secrets\.sh .*example.*)$", PAGE, re.MULTILINE)
    subprocess.run(["sh", "-c", f"./{make}"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    secrets, ssl, data = folder / "secrets", folder / "ssl", folder / "data"
    ssl.mkdir()
    data.mkdir(mode=0o700)
    for name in ("valkey.crt", "valkey.key"):
        Path(shutil.copy(secrets / name, ssl)).chmod(0o600)
    shutil.copy(secrets / "postgres_password", folder / "password")
    for path in (*(ssl.iterdir() if as_server else ()), *((data, folder / "password") if as_server else ())):
        os.chown(path, NOBODY, NOBODY)
    binaries = SERVERS[-1].parent
    subprocess.run(
        [*as_server, str(binaries / "initdb"), "-D", str(data), "-U", "pneumoscreen", "-A", "scram-sha-256",
         f"--pwfile={folder / 'password'}", "-E", "UTF8"],
        check=True, cwd="/", capture_output=True,
    )  # fmt: skip
    conf = written("conf.d/pneumoscreen.conf").replace("/etc/ssl/pneumoscreen", str(ssl))
    with (data / "postgresql.conf").open("a") as lines:
        lines.write(conf)
    rules = written("pg_hba.conf").replace("192.0.2.12/32", "127.0.0.1/32")
    (data / "pg_hba.conf").write_text(f"local all all trust\n{rules}")
    port = free_port()
    server = subprocess.Popen(
        [*as_server, str(SERVERS[-1]), "-D", str(data), "-p", str(port), "-k", str(data)],
        cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        psql = [*as_server, str(binaries / "psql"), "-h", str(data), "-p", str(port), "-U", "pneumoscreen"]
        create = [*psql, "-c", "CREATE DATABASE pneumoscreen", "postgres"]
        wait_for(lambda: not subprocess.run(create, cwd="/", capture_output=True, check=False).returncode)
        (add,) = re.findall(r"^sed -i .*sslmode.*$", PAGE, re.MULTILINE)
        add = add.replace("/etc/pneumoscreen/secrets", str(secrets))
        subprocess.run(["sh", "-c", add], check=True, cwd=secrets)
        url = (secrets / "pneumoscreen_database_url").read_text()
        yield f"{url.replace(':5432/', f':{port}/')}&hostaddr=127.0.0.1"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.mark.skipif(
    not SERVERS or not all(shutil.which(tool) for tool in ("openssl", "setpriv")),
    reason="no PostgreSQL of the system, which has TLS, or no openssl is installed",
)
def test_the_second_server_reaches_the_database_with_tls_under_its_name_and_in_no_other_way(
    database_url: str,
) -> None:
    with psycopg.connect(database_url) as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.execute(query).fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(database_url.replace("sslmode=verify-full", "sslmode=disable"))
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(database_url.replace("first.example.org", "other.example.org"))


@pytest.mark.parametrize("page", ["README.md", "docs/it.md"])
def test_commands_that_are_not_run_are_at_least_right_for_the_shell(page: str) -> None:
    found = blocks((ROOT / page).read_text(), "sh")
    assert found
    for block in found:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        for file in re.findall(r"(?<![\w/.])deploy/[\w./-]+", block):
            if "secrets" not in file or file == "deploy/make-secrets.sh":
                assert (ROOT / file.rstrip("/")).exists(), file
