"""Training runs in the job table: claims, and the cancelling of queued ones."""

from __future__ import annotations

import pytest

from db.audit.chain import newest
from db.engine import Database
from db.states import RunState
from db.training.runs import RunNotQueued, RunUnknown, cancel_run, claim_run, find_run, open_run, reopen_run


def queued(database: Database) -> int:
    with database.write() as session:
        return open_run(session, {}, for_worker=True).id


def claimed(database: Database, run_id: int) -> bool:
    with database.write() as session:
        return claim_run(session, run_id, owner="tester", lease_seconds=60) is not None


def test_a_cancelled_run_is_not_claimed_until_it_is_reopened(database: Database) -> None:
    run_id = queued(database)
    with database.write() as session:
        cancel_run(session, run_id)
    with database.read() as session:
        assert find_run(session, run_id).state is RunState.STOPPED
        assert newest(session)[-1].action == "training.cancel"
    assert not claimed(database, run_id), "its message came after it was cancelled"
    with database.write() as session:
        reopen_run(session, run_id, for_worker=True)
    assert claimed(database, run_id)


def test_only_a_queued_run_is_cancelled(database: Database) -> None:
    run_id = queued(database)
    assert claimed(database, run_id)
    with pytest.raises(RunNotQueued, match="running"), database.write() as session:
        cancel_run(session, run_id)
    with pytest.raises(RunUnknown), database.write() as session:
        cancel_run(session, run_id + 1)
