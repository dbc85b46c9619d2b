"""The audit log: every change of its events is detected."""

from __future__ import annotations

import os
import pwd
import threading

import pytest
from sqlalchemy import text

from db.audit.chain import AuditBroken, newest, seal, verify
from db.audit.events import record
from db.engine import Database
from db.jobs.cohorts import cancel, open_cohort, retry


def write_events(database: Database, count: int) -> str:
    """Write and seal events; return the newest digest."""
    for number in range(count):
        with database.write() as session:
            record(session, "cohort.submit", f"cohort:{number}", priority=number, note="ü")
    with database.write() as session:
        assert seal(session) == count
        assert seal(session) == 0
    with database.read() as session:
        return verify(session).head


def test_an_untouched_chain_is_valid_and_can_be_extended(database: Database) -> None:
    first = write_events(database, 3)
    second = write_events(database, 2)
    assert first != second
    with database.read() as session:
        chain = verify(session, noted={first})
        assert (chain.sealed, chain.unsealed, chain.head) == (5, 0, second)
        assert [event.subject for event in newest(session, limit=2)] == ["cohort:0", "cohort:1"]
        assert len(newest(session, subject="cohort:2")) == 1


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE events SET actor = 'somebody else' WHERE sequence = 2",
        "UPDATE events SET detail = '{}' WHERE sequence = 2",
        "UPDATE events SET at = at - 60 WHERE sequence = 4",
        "DELETE FROM events WHERE sequence = 2",
        "DELETE FROM events WHERE sequence = 1",
        "UPDATE events SET digest = NULL, sequence = NULL WHERE sequence = 3",
    ],
)
def test_a_changed_or_deleted_event_breaks_the_chain(database: Database, crime: str) -> None:
    write_events(database, 4)
    with database.write() as session:
        session.execute(text(crime))
    with database.read() as session, pytest.raises(AuditBroken):
        verify(session)


def test_a_rebuilt_chain_does_not_contain_the_noted_digest(database: Database) -> None:
    noted = write_events(database, 4)
    with database.write() as session:
        session.execute(text("DELETE FROM events WHERE sequence = 2"))
        session.execute(text("UPDATE events SET sequence = NULL, digest = NULL"))
        seal(session)
    with database.read() as session:
        assert verify(session).sealed == 3
        with pytest.raises(AuditBroken, match="noted"):
            verify(session, noted={noted})


def test_a_truncated_chain_is_detected_by_the_noted_digest(database: Database) -> None:
    noted = write_events(database, 4)
    with database.write() as session:
        session.execute(text("DELETE FROM events WHERE sequence = 4"))
    with database.read() as session, pytest.raises(AuditBroken):
        verify(session, noted={noted})


def test_two_sweepers_and_writers_make_one_chain(database: Database) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                with database.write() as session:
                    record(session, "cohort.retry", f"cohort:{number}")
                with database.write() as session:
                    seal(session)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.write() as session:
        seal(session)
        assert verify(session).sealed == 40


def actor(database: Database) -> str:
    with database.write() as session:
        record(session, "cohort.retry", "cohort:1")
    with database.read() as session:
        return newest(session, limit=1)[0].actor


def test_an_event_names_the_real_user_and_the_user_in_the_environment(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pwd.getpwuid(os.getuid()).pw_name
    for name in ("SUDO_USER", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert actor(database) == real
    monkeypatch.setenv("LOGNAME", real)
    assert actor(database) == real
    monkeypatch.setenv("USER", "maria")
    assert actor(database) == f"{real} on behalf of maria"
    monkeypatch.setenv("LOGNAME", "admin")
    monkeypatch.setenv("SUDO_USER", "HOSPITAL\\otto")
    assert actor(database) == f"{real} on behalf of HOSPITAL\\otto"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a\x1b]0;x\x07b", "a??0?x?b"),
        ("x on behalf of y\n", "x?on?behalf?of?y?"),
        ("a" * 5000, "a" * 64),
        ("\udcff\u202e", "??"),
    ],
)
def test_the_environment_can_put_only_a_name_into_the_audit_log(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: str, kept: str
) -> None:
    monkeypatch.setattr("os.environ", {"LOGNAME": said})
    assert actor(database).endswith(f" on behalf of {kept}")


def test_a_user_without_a_name_is_recorded_by_uid(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr("os.getuid", lambda: 4_000_123)
    assert actor(database) == "uid 4000123"


def test_a_given_actor_is_recorded_with_unsafe_characters_replaced(database: Database) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data", actor="maria@ward 7\n")
        retry(session, cohort, actor="maria")
        cancel(session, cohort)
    with database.read() as session:
        actors = [event.actor for event in newest(session)]
    assert actors[:2] == ["maria@ward?7?", "maria"]
    assert actors[2] == pwd.getpwuid(os.getuid()).pw_name or " on behalf of " in actors[2]
