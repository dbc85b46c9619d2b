"""The ports of the embedded stack: the same at each start, and never one that is held."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deploy.ports import PortBusy, choose, holder, is_free, ports


@pytest.fixture
def run(home: Path) -> Path:
    (home / "run").mkdir()
    return home / "run"


def start(run: Path) -> dict[str, int]:
    """Choose ports, and note them as a start does."""
    chosen = choose(run)
    for process, number in chosen.items():
        (run / f"{process}.port").write_text(str(number))
    return chosen


def test_ports_stay_over_a_restart_until_another_program_holds_one(run: Path) -> None:
    first = start(run)
    assert start(run) == first
    assert len(set(first.values())) == 2
    # Linux gives ports from 32768 on to outgoing connections.
    assert all(1024 < number < 32768 for number in first.values())
    with socket.create_server(("127.0.0.1", first["flower"])):
        moved = start(run)
    assert moved["flower"] != first["flower"]
    assert moved["metrics"] == first["metrics"]
    assert start(run) == moved


def test_ports_depend_on_the_data_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose(run)
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(tmp_path))
    assert choose(tmp_path) != first


def test_a_connection_that_has_just_ended_does_not_make_a_port_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)):
            taken, _ = server.accept()
            taken.close()  # the server's end closes first, and waits
    assert is_free(number)


def test_a_chosen_port_that_is_held_is_refused_with_its_holder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        held = holder(number)
        assert held is not None
        assert (held.pid, held.is_ours) == (os.getpid(), False)
        monkeypatch.setenv("PNEUMOSCREEN_METRICS_PORT", str(number))
        with pytest.raises(
            PortBusy, match=f"PNEUMOSCREEN_METRICS_PORT, port {number}, is held by .*{held.pid}"
        ):
            choose(run)
    assert choose(run)["metrics"] == number
    assert holder(number) is None
    monkeypatch.setenv("PNEUMOSCREEN_FLOWER_PORT", str(number))
    with pytest.raises(PortBusy, match="METRICS_PORT"):
        choose(run)
    assert [port.process for port in ports(run)] == ["flower", "metrics"]
