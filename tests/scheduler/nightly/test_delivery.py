"""The delivery of summaries by mail and to a webhook."""

from __future__ import annotations

import json
import socket
import threading
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from sqlalchemy import update

from db.engine import Database
from db.nights.runs import conclude_nights
from db.tables import NightlyRun
from scheduler.cli.study import nightly
from scheduler.nightly.conclusion import conclude, summarise
from scheduler.nightly.delivery import (
    Attempt,
    MailNotSent,
    MailNotSetUp,
    SendSettings,
    send,
    send_test,
)
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly
from scheduler.nightly.slots import run_now
from tests.faults.proxy import free_port
from tests.scheduler.nightly.nights import screen, settings, walk


class Inbox:
    """A mail server that keeps its messages, with enough of RFC 5321 for one at a time."""

    def __init__(self, *, refuse: int = 0) -> None:
        """Refuse the first `refuse` messages."""
        self.refuse, self.messages = refuse, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.message = b""
        self.refused_recipient = b"nobody"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as file:

            def say(line: bytes) -> None:
                file.write(line + b"\r\n")
                file.flush()

            say(b"220 inbox")
            while line := file.readline():
                command = line[:4].upper()
                if command == b"RCPT" and self.refused_recipient in line:
                    say(b"550 unknown")
                    continue
                if command == b"DATA":
                    say(b"354 go on")
                    while (part := file.readline()) != b".\r\n":
                        self.message += part
                    self.messages += 1
                    if self.messages <= self.refuse:
                        say(b"451 later")
                        continue
                say(b"250 inbox" if command != b"QUIT" else b"221 bye")


class Hook(BaseHTTPRequestHandler):
    """A webhook that fails for the first `refuse` requests."""

    got: list[bytes] = []  # noqa: RUF012  (one per test run)
    refuse = 1

    def do_POST(self) -> None:
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if len(self.got) <= self.refuse else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def receive(monkeypatch: pytest.MonkeyPatch, *, refuse: int = 0) -> tuple[Inbox, HTTPServer]:
    """Have summaries sent to a webhook, and to a mail server that refuses the first `refuse` messages."""
    Hook.got.clear()
    inbox, hook = Inbox(refuse=refuse), HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    for name, value in {
        "SMTP_HOST": "127.0.0.1", "SMTP_PORT": inbox.port, "SMTP_SECURITY": "none",
        "MAIL_TO": '["radiology@example.org"]', "WEBHOOK_URL": f"http://127.0.0.1:{hook.server_port}/x",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PNEUMOSCREEN_{name}", str(value))
    return inbox, hook


def test_the_summary_is_sent_and_is_sent_again_if_that_failed(
    with_champion: Database, ward: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, hook = receive(monkeypatch)
    assert SendSettings.read().mail_to == ("radiology@example.org",)
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.9, 0.1, 0.3])
    summarise(with_champion, settings(ward), run_id)
    mail = message_from_bytes(inbox.message, policy=default)
    assert "ward" in mail["Subject"]
    assert {part.get_content_type() for part in mail.walk()} >= {"text/plain", "text/html"}
    assert conclude(with_champion) == [], "another process holds the lease"
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(lease_until=1.0))
    assert conclude(with_champion) == [run_id]
    monkeypatch.delenv("PNEUMOSCREEN_SMTP_HOST")
    summarise(with_champion, settings(ward), run_id)
    hook.shutdown()
    assert json.loads(Hook.got[-1])["done"] == 3
    assert "audit_head" in json.loads(Hook.got[-1])
    assert conclude(with_champion) == []


def test_a_webhook_that_redirects_has_failed_and_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Elsewhere(Hook):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

    hook = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    monkeypatch.setenv("PNEUMOSCREEN_WEBHOOK_URL", f"http://127.0.0.1:{hook.server_port}/x")
    attempts = send(SendSettings.read(), "s", "t", "h", {"done": 3})
    assert attempts == {"webhook": Attempt(sent=False, problem="the server answers 302")}
    hook.shutdown()
    hook.server_close()
    assert asked == []


@pytest.mark.parametrize(("mail", "webhook"), [(0, 2), (2, 0)])
def test_a_delivered_mail_or_webhook_is_not_sent_again_while_the_other_one_fails(
    mail: int, webhook: int, with_champion: Database, ward: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hook, "refuse", webhook)
    inbox, hook = receive(monkeypatch, refuse=mail)
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.9, 0.1, 0.3])
    tries = 0
    while run_id in conclude(with_champion):
        summarise(with_champion, settings(ward), run_id)
        tries += 1
        with with_champion.write() as session:
            session.execute(update(NightlyRun).values(lease_until=1.0))
    hook.shutdown()
    assert tries == 3
    assert (inbox.messages, len(Hook.got)) == (mail + 1, webhook + 1)


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the latest run as `nightly history` gives it to a script, and its line in a pipe."""
    nightly.history(as_json=True)
    run: dict[str, Any] = json.loads(capsys.readouterr().out)[0]
    nightly.history()
    return run, capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_history_shows_whether_a_summary_was_sent_when_and_why_not(
    with_champion: Database,
    ward: Nightly,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def again() -> tuple[dict[str, Any], str]:
        with with_champion.write() as session:
            session.execute(update(NightlyRun).values(lease_until=1.0))
        summarise(with_champion, settings(ward), run_id)
        return shown(capsys)

    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.9, 0.1, 0.3])
    inbox, hook = receive(monkeypatch, refuse=1)
    monkeypatch.setenv("PNEUMOSCREEN_SMTP_PORT", str(free_port()))
    run, line = again()
    assert run["delivery"]["mail"]["sent"] is False
    assert "mail not sent" in line
    assert "the connection is refused: check host and port; it is tried again" in line
    assert "webhook not sent" in line
    assert "the server answers 500" in line
    monkeypatch.setenv("PNEUMOSCREEN_SMTP_PORT", str(inbox.port))
    run, line = again()
    assert "the server answers 451; it is tried again" in line, "the webhook's success hid it"
    assert "webhook sent 20" in line
    sent_at = run["delivery"]["webhook"]["at"]
    run, line = again()
    assert "mail sent 20" in line
    assert run["delivery"]["webhook"]["at"] == sent_at
    assert run["summarised_at"] is not None
    hook.shutdown()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_history_says_that_nothing_is_set_up_and_that_a_delivery_was_given_up(
    with_champion: Database,
    ward: Nightly,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = walk(with_champion, ward)
    screen(with_champion, first, [0.9, 0.1, 0.3])
    summarise(with_champion, settings(ward), first)
    nightly.history()
    assert "neither mail nor a webhook is set up" in capsys.readouterr().out
    receive(monkeypatch)
    monkeypatch.delenv("PNEUMOSCREEN_WEBHOOK_URL")
    monkeypatch.setenv("PNEUMOSCREEN_SMTP_PORT", str(free_port()))
    second = walk(with_champion, ward)
    with with_champion.write() as session:
        assert conclude_nights(session) == [second]
        session.execute(update(NightlyRun).where(NightlyRun.id == second).values(finished_at=1.0))
    summarise(with_champion, settings(ward), second)
    nightly.history()
    assert "check host and port; given up" in capsys.readouterr().out


def test_a_test_mail_arrives_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MailNotSetUp):
        nightly.test_mail()
    inbox, _ = receive(monkeypatch, refuse=1)
    with pytest.raises(MailNotSent, match="the server answers 451"):
        nightly.test_mail()
    assert b"This is a test" in inbox.message
    nightly.test_mail()
    assert capsys.readouterr().out == f"Sent to radiology@example.org through 127.0.0.1, port {inbox.port}.\n"
    for name, value, why in (
        ("SMTP_SECURITY", "starttls", "check `smtp_security`"),
        ("SMTP_HOST", "no-such-host.invalid", "check its spelling"),
    ):
        monkeypatch.setenv(f"PNEUMOSCREEN_{name}", value)
        with pytest.raises(MailNotSent, match=why):
            send_test(SendSettings.read(), "here")


def test_a_mail_that_some_recipients_do_not_get_is_sent_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, _ = receive(monkeypatch)
    inbox.refused_recipient = b"old@example.org"
    monkeypatch.setenv("PNEUMOSCREEN_MAIL_TO", '["radiology@example.org", "old@example.org"]')
    assert send_test(SendSettings.read(), "here") == Attempt(
        sent=True, problem="refused for 1 of 2 recipients"
    )
