"""The embedded stack: broker, workers, beat and Flower on this machine, kept alive by supervisord."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from db.errors import PneumoscreenError
from db.settings import ENV_PREFIX, config_file, home, secrets_folder
from deploy.configuration import configure
from deploy.control import Control, StackHung, StackNotRunning, check_folder
from deploy.flower.settings import FlowerSettings
from deploy.ports import Port, PortBusy, busy, is_free, is_served, ports
from deploy.processes import MARK, Marked, marked, stop_marked
from deploy.settings import StackSettings
from deploy.users import Users

#: Seconds that the stack may take to start: most of them load torch and the model from a cold disk.
_START_SECONDS = 180.0
#: Seconds that supervisord may take to end after its processes.
_END_SECONDS = 5.0
_POLL_SECONDS = 0.1


class StackInUse(PneumoscreenError):
    """Another command uses the stack of this data directory. Wait for its end, or stop it."""

    code = "stack-in-use"


class StackFailed(PneumoscreenError):
    """The embedded stack did not start. `pneumoscreen doctor` checks the common causes."""

    code = "stack-failed"


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the stack, as supervisord sees it."""

    name: str
    #: A state of supervisord: `RUNNING`, `STARTING`, `BACKOFF`, `FATAL`, `STOPPED` and others.
    state: str
    pid: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The outcome of `Stack.stop`."""

    #: Whether supervisord ran.
    was_running: bool
    #: The processes that a killed supervisord had left behind.
    left_over: list[Marked]


class Stack:
    """The embedded stack of one data directory."""

    def __init__(self) -> None:
        self.home = home()
        self.run = self.home / "run"
        self.logs = self.home / "logs"
        self._control = Control(self.run)
        self._users = Users(self.run)
        # A data directory may have several names, by links.
        self._mark = str(self.home.resolve())

    # -- state

    def processes(self) -> list[Process]:
        """Return the stack's processes. Raises StackNotRunning."""
        infos = self._control.call("getAllProcessInfo")
        return [Process(info["name"], info["statename"], int(info["pid"])) for info in infos]

    def is_running(self) -> bool:
        """Tell whether the stack runs and is not being stopped."""
        try:
            self._control.call("getState")
        except StackNotRunning:
            return False
        return True

    def is_gone(self) -> bool:
        """Tell whether supervisord has ended. Unless it was killed, its processes have ended too."""
        return self._control.is_gone()

    def is_kept(self) -> bool:
        """Tell whether the stack is to run on until `stop`, also when no command uses it."""
        return self._users.is_kept()

    def left_over(self) -> list[Marked]:
        """Return the processes that a killed supervisord has left behind."""
        return marked(self._mark) if self.is_gone() else []

    @property
    def flower_address(self) -> str:
        """Flower's address on this machine."""
        return f"http://127.0.0.1:{self._port('flower').taken}"

    @property
    def metrics_address(self) -> str:
        """The metrics server's address on this machine."""
        return f"http://127.0.0.1:{self._port('metrics').taken}/metrics"

    def serves(self, process: str) -> bool:
        """Tell whether `flower` or `metrics` listens at its address, and not another program."""
        return is_served(self._port(process))

    def _port(self, process: str) -> Port:
        return next(port for port in ports(self.run) if port.process == process)

    @property
    def flower_login(self) -> tuple[str, str]:
        """User and password of Flower."""
        settings = FlowerSettings.read()
        return settings.flower_user, settings.flower_password.get_secret_value()

    # -- starting and stopping

    def start(self, prepare: Callable[[], None]) -> bool:
        """Call `prepare` and start the stack if it is not running, and let it run until `stop`.

        Returns, once every process has been started, False if they were running. Raises StackFailed,
        StackBusy, StackNotOurs, PortBusy.
        """
        with self._alone():
            started = self._bring_up(prepare)
            self._users.keep()
        return started

    @contextmanager
    def use(self, prepare: Callable[[], None], *, keep: bool = False) -> Iterator[bool]:
        """Run the stack during the block, and longer if others use it or `keep` is set.

        Calls `prepare` and starts the stack if it is not running; the last user stops it. Yields whether it
        was started. Raises as `start`.
        """
        self._make_folders()
        user = self._users.enter()
        try:
            with self._alone():
                started = self._bring_up(prepare)
            yield started
        except BaseException:
            self._leave(user)
            raise
        self._leave(user, keep=keep)

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Stop the stack and empty its data directory; the caller is its only user during the block.

        Raises StackInUse if another process uses it, StackFailed, StackBusy, StackNotOurs.
        """
        with self._alone():
            if self._users.are_there():
                raise StackInUse
            self._stop()
            # The locks in `run` stay.
            for path in set(self.home.iterdir()) - {self.run}:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            user = self._users.enter()
        try:
            yield
        finally:
            os.close(user)

    def stop(self) -> Stopped:
        """Stop every process, each after it has finished its tasks; return what was running.

        Raises StackFailed if a process does not stop, StackBusy, StackNotOurs.
        """
        if not self.run.is_dir() and not self.left_over():
            return Stopped(was_running=False, left_over=[])
        with self._alone():
            return self._stop()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._make_folders()
        # The holder of the lock may wait for every process to stop, and then for all of them to start.
        with self._users.alone(StackSettings.read().stop_seconds + 2 * _START_SECONDS):
            yield

    def _leave(self, user: int, *, keep: bool = False) -> None:
        with self._alone():
            os.close(user)
            if keep:
                self._users.keep()
            elif not self._users.is_wanted():
                self._stop()

    def _stop(self) -> Stopped:
        stop_seconds = StackSettings.read().stop_seconds
        self._users.no_longer_keep()
        was_running = not self.is_gone()
        with suppress(StackHung):
            if was_running:
                self._shut_down(stop_seconds + _START_SECONDS)
        left_over = stop_marked(self._mark, stop_seconds)
        if marked(self._mark) or not self.is_gone():
            raise StackFailed("a process does not stop")
        return Stopped(was_running, left_over)

    def _shut_down(self, seconds: float) -> None:
        """Ask supervisord to stop its processes and end; wait at most `seconds`. Raises StackHung."""
        try:
            self._control.call("shutdown")
        except StackHung:
            raise
        except StackNotRunning:
            pass  # it is stopping already
        with suppress(StackFailed):
            self._wait(self.is_gone, "a process does not stop", seconds)
            self._wait(lambda: not marked(self._mark), "supervisord does not end", _END_SECONDS)

    def _bring_up(self, prepare: Callable[[], None]) -> bool:
        """Start the stack if it is not running; return whether it was started."""
        if self.is_running():
            return False
        self._stop()
        configure(self.run)
        prepare()
        self._spawn()
        return True

    def _make_folders(self) -> None:
        for folder in (self.home, self.run, self.logs, self.home / "broker", secrets_folder()):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        run = os.open(self.run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            check_folder(run)
        finally:
            os.close(run)

    def _spawn(self) -> None:
        # Its processes run in another folder than this command, where relative paths name other files.
        places = {"HOME": self.home, "CONFIG": config_file(), "SECRETS": secrets_folder()}
        environment = {ENV_PREFIX + name: str(path.absolute()) for name, path in places.items()}
        # SPT_NOENV: Celery uses setproctitle if it is installed, and that must not overwrite the environment.
        environment |= {MARK: self._mark, "SPT_NOENV": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=self.run,
            env=os.environ | environment,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise StackFailed("supervisord did not start")
        self._wait(self.is_running, "supervisord does not answer")

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns true, at most three minutes.

        Raises StackFailed if a process fails, PortBusy if another program has taken its port.
        """

        def checked() -> bool:
            self.check()
            return ready()

        self._wait(checked, "its processes do not answer")

    def check(self) -> None:
        """Raise StackNotRunning or, if supervisord has given a process up, PortBusy or StackFailed."""
        fatal = [process.name for process in self.processes() if process.state == "FATAL"]
        if fatal:
            for port in ports(self.run):
                if port.process in fatal and not is_free(port.taken):
                    raise PortBusy(busy(port, port.taken))
            raise StackFailed(f"{', '.join(fatal)}; see the logs folder of the data directory")

    @staticmethod
    def _wait(condition: Callable[[], bool], otherwise: str, seconds: float = _START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StackFailed(otherwise)
            time.sleep(_POLL_SECONDS)
