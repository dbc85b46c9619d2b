"""Invariants of a job table: at any moment, and after everything has ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from typing import Any

from sqlalchemy import func, select

from db.engine import Database
from db.jobs.duplicates import may_be_of_one_copy
from db.jobs.problems import DuplicateInstance, every_problem
from db.queries.progress import progress
from db.queries.totals import batch_totals
from db.states import (
    IN_FLIGHT,
    TERMINAL,
    UNFINISHED,
    UNFINISHED_INGEST,
    BatchState,
    CohortState,
    ImageState,
)
from db.tables import Batch, Event, Image, Ingest, Prediction
from db.upkeep.counters import compare

PROBLEMS = every_problem()


def check(database: Database, *, ended: bool = False) -> None:
    """Assert that nothing is lost, duplicated or half written; with `ended`, also that all has ended."""
    with database.read() as session:
        images = session.execute(
            select(
                Image.id,
                Image.state,
                Image.problem,
                Image.batch_id,
                Image.cohort_id,
                Image.instance_uid,
                Image.frame,
            )
        ).all()
        walked = set(session.scalars(select(Ingest.cohort_id).where(Ingest.state.in_(UNFINISHED_INGEST))))
        batches = {batch.id: batch for batch in session.scalars(select(Batch))}
        predictions = Counter(session.scalars(select(Prediction.image_id)))
        pairs = session.execute(
            select(func.count())
            .select_from(Prediction)
            .group_by(Prediction.image_id, Prediction.model_id)
            .having(func.count() > 1)
        ).all()
        submitted = set(session.scalars(select(Event.subject).where(Event.action == "cohort.submit")))
        counted = progress(session)
        wrong = compare(session)
        totals = batch_totals(session)
    assert pairs == [], "an image has two predictions by one model"
    for image in images:
        assert (image.state is ImageState.DONE) <= (predictions[image.id] > 0), "done without a prediction"
        assert (image.problem is not None) == (image.state in (ImageState.SKIPPED, ImageState.FAILED))
        if image.state in IN_FLIGHT:
            expected = BatchState.RUNNING if image.state is ImageState.RUNNING else BatchState.QUEUED
            assert batches[image.batch_id].state is expected, "an image and its batch differ in state"
    assert wrong == [], "a counter differs from its rows"
    here = Counter(batch.state for batch in batches.values())
    assert {state: total.here for state, total in totals.items()} == {
        state: here[state] for state in BatchState
    }
    for batch in batches.values():
        assert (batch.lease_token is not None) == (batch.state is BatchState.RUNNING)
    ready = {cohort.cohort_id for cohort in counted if cohort.state is CohortState.READY}
    check_copies(images, ready)
    by_cohort = Counter(image.cohort_id for image in images)
    for cohort in counted:
        assert (cohort.cohort_id in walked) <= (cohort.state is CohortState.INGESTING), (
            "closed while its source is read"
        )
        if cohort.archived:
            assert by_cohort[cohort.cohort_id] == 0, "an archived cohort has rows"
            continue
        assert cohort.total == by_cohort[cohort.cohort_id]
        states = (cohort.pending, cohort.queued, cohort.running, cohort.done, cohort.skipped, cohort.failed)
        assert sum(states) == cohort.total, "the counts of a cohort do not add up"
        assert f"cohort:{cohort.cohort_id}" in submitted, "the audit log has no event of a cohort"
    if ended:
        assert {image.state for image in images} <= set(TERMINAL), "an image has not ended"
        assert not {batch.state for batch in batches.values()} & {BatchState.QUEUED, BatchState.RUNNING}


def check_copies(images: Sequence[Any], ready: Set[int]) -> None:
    """Assert that one copy of an instance is screened at a time, and that every duplicate has such a copy."""
    copies = defaultdict(list)
    for image in images:
        if image.instance_uid is not None:
            copies[image.cohort_id, image.instance_uid, image.frame].append(image)
    for (cohort_id, *_), same in copies.items():
        screened = [one for one in same if one.state in (*UNFINISHED, ImageState.DONE)]
        assert len(screened) <= 1, "two copies of an instance are screened"
        left = {one.problem for one in same} - {DuplicateInstance.code}
        if cohort_id in ready and len(left) < len({one.problem for one in same}):
            kept = [problem for problem in left if not (problem and may_be_of_one_copy(PROBLEMS[problem]()))]
            assert kept, "a duplicate has no screened copy"
