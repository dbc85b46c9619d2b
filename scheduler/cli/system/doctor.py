"""The checks of `doctor`: each one says what it found, and how to fix what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.settings import DatabaseSettings, SettingsInvalid, home
from db.upkeep.migrate import current_revision, head_revision
from scheduler.cli.system.configuration import check_ports, check_settings
from scheduler.cli.system.finding import Finding

#: Free space below which a night's logs and results may not fit.
_LITTLE_SPACE_GIB = 2.0
#: A cold import of torch from a slow disk takes half a minute.
_SELFCHECK_SECONDS = 120


def examine() -> list[Finding]:
    """Run every check. If one raises an error of ours, it is reported and the other checks still run."""
    findings: list[Finding] = []
    for name, check in _CHECKS.items():
        try:
            findings += check()
        except SettingsInvalid:  # the first check has said which
            findings.append(Finding(name, "note", "not checked", "Correct the settings first."))
        except PneumoscreenError as error:
            findings.append(Finding(name, "bad", error.code, str(error)))
    return findings


def _database() -> Iterator[Finding]:
    try:
        current = current_revision(Database())
    except DatabaseFailed as error:
        mend = error.meaning()
        yield Finding("database", "bad", error.code, mend)
        return
    head = head_revision()
    if current == head:
        yield Finding("database", "good", f"revision {current}")
    elif current is None:
        yield Finding("database", "note", "empty", "The first command that needs it creates it.")
    elif current > head:
        mend = "This version of pneumoscreen is older than the job table: install the newer one."
        yield Finding("database", "bad", f"revision {current}, newer than {head}", mend)
    else:
        mend = "Any command upgrades it; make a backup first."
        yield Finding("database", "note", f"revision {current}, {head} is current", mend)


def _roots() -> Iterator[Finding]:
    from worker.files.roots import Roots

    url = DatabaseSettings.read().url
    if Roots.read().places or not url or url.startswith("sqlite"):
        return
    mend = "Name the folders and URLs that images may come from in `source_roots`."
    yield Finding("sources", "note", "every file that can be read may be screened", mend)


def _broker() -> Iterator[Finding]:
    from redis import Redis
    from redis.exceptions import AuthenticationError, RedisError

    from deploy.stack import Stack
    from worker.settings import BrokerSettings

    broker = BrokerSettings.read()
    try:
        with Redis.from_url(
            broker.url, socket_connect_timeout=3, socket_timeout=3, **broker.tls or {}
        ) as client:
            client.ping()
    except AuthenticationError:
        yield Finding(
            "broker", "bad", "refuses the password", "Correct the password in PNEUMOSCREEN_BROKER_URL."
        )
    except (RedisError, OSError, ValueError) as error:
        running = Stack().is_running()
        mend = "See broker.log." if running else "Run `pneumoscreen up`, or set PNEUMOSCREEN_BROKER_URL."
        yield Finding("broker", "bad" if running else "note", f"no answer: {type(error).__name__}", mend)
    else:
        yield Finding("broker", "good", "answers")
        yield from _workers()


def _workers() -> Iterator[Finding]:
    from scheduler.cli.system.running import workers_answer

    if workers_answer():
        yield Finding("workers", "good", "screening and housekeeping answer")
    else:
        mend = "Run `pneumoscreen up`, or look at the workers' logs."
        yield Finding("workers", "bad", "screening or housekeeping does not answer", mend)


def _stack() -> Iterator[Finding]:
    from deploy.stack import Stack

    left_over = Stack().left_over()
    if left_over:
        names = ", ".join(one.name for one in left_over)
        mend = (
            "Run `pneumoscreen down`, or `pneumoscreen up`, which stops them and starts all processes again."
        )
        yield Finding("stack", "bad", f"supervisord was killed and has left {names}", mend)


def _model() -> Iterator[Finding]:
    from db.models.registry import find_champion, registered_card
    from db.models.store import digest_of, read_checked_statistics, read_checked_weights
    from deploy.models import default_model

    shipped = default_model().name
    database = Database()
    if current_revision(database) != head_revision():
        yield Finding("model", "note", f"{shipped} ships", "Registered when the job table is created.")
        return
    with database.read() as session:
        champion = find_champion(session)
    if champion is None:
        yield Finding("model", "note", f"{shipped} ships", "Registered as champion at the first `up`.")
        return
    card, folder = registered_card(champion), database.models_folder / champion.name
    card.check_preprocessing()
    weights = read_checked_weights(folder, champion.weights_digest)
    read_checked_statistics(folder, card)
    yield Finding("model", "good", f"{champion.name}, digest {digest_of(weights)[:12]} is correct")


def _trust() -> Iterator[Finding]:
    from db.tables import Cohort
    from db.trust.comparison import compare_cohort, recent_cohorts

    database = Database()
    if current_revision(database) != head_revision():
        return
    with database.read() as session:
        for cohort_id in recent_cohorts(session):
            comparison = compare_cohort(session, cohort_id)
            if comparison is not None and comparison.distrusted:
                name = session.get_one(Cohort, cohort_id).name
                yield Finding("trust", "note", f"cohort {name}", comparison.as_text())


def _machine() -> Iterator[Finding]:
    if find_spec("torch") is None:
        mend = "This machine does not screen. For a worker, in the clone: pip install '.[worker]'."
        yield Finding("torch", "note", "not installed", mend)
        return
    done = subprocess.run(
        # -P: import no module from the current folder, which may be a folder of images.
        [sys.executable, "-P", "-m", "worker.selfcheck"],
        capture_output=True,
        text=True,
        timeout=_SELFCHECK_SECONDS,
        check=False,
    )
    if done.returncode:
        mend = "Install pneumoscreen again in a new virtual environment."
        yield Finding("torch", "bad", f"the self-check ended with {done.returncode}", mend)
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    yield from _runtime(facts["runtime"])
    yield from _torch(facts["torch"])
    yield from _decoders(facts["decoders"])


def _runtime(facts: dict[str, str]) -> Iterator[Finding]:
    if "version" in facts:
        yield Finding("runtime", "good", f"{facts['name']} {facts['version']}")
    else:
        mend = "In the clone: pip install '.[cpu]', or remove PNEUMOSCREEN_RUNTIME."
        yield Finding("runtime", "bad", f"{facts['name']} is not installed", mend)


def _torch(facts: dict[str, Any]) -> Iterator[Finding]:
    if "error" in facts:
        mend = "torch and torchvision do not fit each other: install the pair that pyproject.toml names."
        yield Finding("torch", "bad", facts["error"], mend)
        return
    yield Finding("torch", "good", f"torch {facts['torch']}, torchvision {facts['torchvision']}")
    if facts["gpus"]:
        yield Finding("GPU", "good", ", ".join(facts["gpus"]))
    else:
        mend = "Screening runs on the CPU. For a GPU install its driver and a CUDA build of torch."
        yield Finding("GPU", "note", "none", mend)


def _decoders(facts: dict[str, bool]) -> Iterator[Finding]:
    missing = [name for name, there in facts.items() if not there]
    if missing:
        mend = "Install pneumoscreen again; images in these syntaxes fail as no-decoder."
        yield Finding("decoders", "bad", "none for " + ", ".join(missing), mend)
    else:
        yield Finding("decoders", "good", f"{len(facts)} DICOM transfer syntaxes")


def _disk() -> Iterator[Finding]:
    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < _LITTLE_SPACE_GIB:
        mend = "Free some space, or move PNEUMOSCREEN_HOME."
        yield Finding("disk", "bad", f"{free:.1f} GiB free", mend)
    else:
        yield Finding("disk", "good", f"{free:.1f} GiB free")


_CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "settings": check_settings,
    "database": _database,
    "sources": _roots,
    "broker": _broker,
    "stack": _stack,
    "ports": check_ports,
    "model": _model,
    "trust": _trust,
    "torch": _machine,
    "disk": _disk,
}
