"""The allowed changes of state in the job table, and the UPDATE that makes one.

Only code that passes a declared transition may write a state. `docs/states.md` is drawn from this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import ColumnElement, CursorResult, Update, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import SQLColumnExpression

from db.states import BatchState, CohortState, ImageState, IngestState, ModelState, NightState, RunState

State = TypeVar("State", bound=StrEnum)


class TransitionNotAllowed(Exception):
    """A row's state is not one that the transition starts from: a defect of this program."""


class HasState(Protocol):
    """A row of a table with states."""

    state: Any


@dataclass(frozen=True, slots=True)
class Transition(Generic[State]):
    """An allowed change of state. Only code that passes one may write a state."""

    #: The states that it starts from; none for a new row.
    sources: tuple[State, ...]
    #: The state that it ends in.
    to: State
    #: When it happens, in one sentence.
    meaning: str

    def where(self, column: SQLColumnExpression[Any]) -> ColumnElement[bool]:
        """Match rows that it may start from: the guard of an UPDATE."""
        return column == self.sources[0] if len(self.sources) == 1 else column.in_(self.sources)

    def apply(self, row: HasState) -> None:
        """Change a row that the caller has locked; one that is in the new state already stays as it is.

        Raises TransitionNotAllowed.
        """
        if row.state is not self.to:
            if row.state not in self.sources:
                raise TransitionNotAllowed(f"{row.state} to {self.to}")
            row.state = self.to


class CohortChange:
    """The transitions of a cohort."""

    _state = CohortState
    OPEN = Transition((), _state.INGESTING, "Its name is submitted for the first time.")
    SUBMIT = Transition(
        (_state.READY, _state.CANCELLED), _state.INGESTING, "A source is submitted under the same name."
    )
    RESUME = Transition((_state.READY,), _state.INGESTING, "An ingest that broke off continues.")
    READY = Transition((_state.INGESTING,), _state.READY, "The last of its sources was read to its end.")
    CANCEL = Transition((_state.INGESTING, _state.READY), _state.CANCELLED, "A user cancels it.")
    RETRY = Transition((_state.CANCELLED,), _state.READY, "A user retries it.")


class IngestChange:
    """The transitions of an ingest."""

    _state = IngestState
    BEGIN = Transition((), _state.RUNNING, "A source is submitted to a cohort for the first time.")
    TAKE_OVER = Transition(
        (_state.RUNNING, _state.BROKEN_OFF, _state.ENDED),
        _state.RUNNING,
        "The same source is submitted again; an earlier command loses its lease.",
    )
    RENEW = Transition(
        (_state.RUNNING, _state.BROKEN_OFF),
        _state.RUNNING,
        "The command extends its lease, or adds images; also after the lease expired, if nobody took over.",
    )
    END = Transition((_state.RUNNING,), _state.ENDED, "The source was read to its end.")
    BREAK_OFF = Transition((_state.RUNNING,), _state.BROKEN_OFF, "The command fails, or its lease expires.")
    GIVE_UP = Transition(
        (_state.RUNNING, _state.BROKEN_OFF), _state.ENDED, "The cohort is cancelled, or its night fails."
    )


class ImageChange:
    """The transitions of an image."""

    _state = ImageState
    ADD = Transition((), _state.PENDING, "A source lists it.")
    ADD_SKIPPED = Transition((), _state.SKIPPED, "A source lists it, and its header excludes it.")
    ADD_FAILED = Transition((), _state.FAILED, "A source lists it, and it cannot be read.")
    SKIP_DUPLICATE = Transition(
        (_state.PENDING,), _state.SKIPPED, "Another image of the same SOP Instance is screened."
    )
    PROMOTE_DUPLICATE = Transition(
        (_state.SKIPPED,), _state.PENDING, "The image of the same SOP Instance failed; this one is next."
    )
    CUT = Transition((_state.PENDING,), _state.QUEUED, "It is put into a batch.")
    UNDO_CUT = Transition(
        (_state.QUEUED,), _state.PENDING, "Its batch is cancelled, because of its source or its model."
    )
    CLAIM = Transition((_state.QUEUED,), _state.RUNNING, "A worker claims its batch.")
    FINISH = Transition((_state.RUNNING,), _state.DONE, "Its prediction is written.")
    SKIP = Transition((_state.RUNNING,), _state.SKIPPED, "The worker finds that it is not for this system.")
    FAIL = Transition((_state.RUNNING,), _state.FAILED, "It cannot be read, decoded or computed.")
    REQUEUE = Transition(
        (_state.RUNNING,), _state.QUEUED, "The worker returns its batch, or the batch's lease expires."
    )
    SPLIT = Transition(
        (_state.RUNNING,), _state.QUEUED, "Its batch's lease expires again; it goes into a smaller batch."
    )
    LOSE = Transition((_state.RUNNING,), _state.FAILED, "The lease of its batch expires; it was alone in it.")
    TIME_OUT = Transition(
        (_state.PENDING, _state.QUEUED),
        _state.FAILED,
        "Its source or its model was unavailable for too long.",
    )
    CANCEL = Transition(
        (_state.PENDING, _state.QUEUED), _state.SKIPPED, "A user cancels the cohort before a worker has it."
    )
    CANCEL_LOST = Transition(
        (_state.RUNNING,), _state.SKIPPED, "The lease of its batch expires after the cohort was cancelled."
    )
    RETRY = Transition(
        (_state.SKIPPED, _state.FAILED),
        _state.PENDING,
        "A user retries the cohort: failed, cancelled and unfamiliar ones.",
    )


class BatchChange:
    """The transitions of a batch."""

    _state = BatchState
    CUT = Transition((), _state.QUEUED, "Pending images are grouped, or a batch is split.")
    CLAIM = Transition((_state.QUEUED,), _state.RUNNING, "A worker claims it.")
    RENEW = Transition((_state.RUNNING,), _state.RUNNING, "The worker extends its lease.")
    COMPLETE = Transition((_state.RUNNING,), _state.DONE, "The results are written.")
    GIVE_BACK = Transition((_state.RUNNING,), _state.QUEUED, "The worker stops, or lacks something.")
    EXPIRE = Transition((_state.RUNNING,), _state.QUEUED, "The lease expires for the first time.")
    SPLIT = Transition((_state.RUNNING,), _state.SPLIT, "The lease expires again, with several images.")
    FAIL = Transition((_state.RUNNING,), _state.DONE, "The lease expires again, with one image: it fails.")
    TIME_OUT = Transition(
        (_state.QUEUED,), _state.DONE, "What it needs was unavailable for too long: its images fail."
    )
    CANCEL = Transition(
        (_state.QUEUED,),
        _state.CANCELLED,
        "The cohort is cancelled, its source is unavailable, or the champion is another model.",
    )
    CANCEL_LOST = Transition(
        (_state.RUNNING,), _state.CANCELLED, "The lease expires after the cohort was cancelled."
    )


class NightChange:
    """The transitions of a nightly run."""

    _state = NightState
    FIRST_SLOT = Transition((), _state.BASELINE, "A schedule is seen for the first time.")
    OPEN = Transition((), _state.WAITING, "A slot of the schedule comes, or a user asks for a run.")
    CLAIM = Transition(
        (_state.WAITING, _state.INGESTING),
        _state.INGESTING,
        "A scheduler claims it, also once a lease expired.",
    )
    RENEW = Transition((_state.INGESTING,), _state.INGESTING, "The scheduler extends its lease.")
    SCREEN = Transition((_state.INGESTING,), _state.SCREENING, "Its source was read to its end.")
    WAIT = Transition((_state.INGESTING,), _state.WAITING, "Its source cannot be read; another try follows.")
    FAIL = Transition((_state.INGESTING,), _state.FAILED, "Its source cannot be read until the window ends.")
    HOLD = Transition((_state.SCREENING,), _state.HELD, "Its window ends before its images have ended.")
    FINISH = Transition((_state.SCREENING, _state.HELD), _state.DONE, "All its images have ended.")


class RunChange:
    """The transitions of a training run."""

    _state = RunState
    OPEN = Transition((), _state.QUEUED, "A user or a trigger asks for it.")
    CLAIM = Transition(
        (_state.QUEUED, _state.RUNNING),
        _state.RUNNING,
        "A worker or a command claims it, also once a lease expired.",
    )
    RENEW = Transition((_state.RUNNING,), _state.RUNNING, "The holder extends its lease.")
    REOPEN = Transition(
        (_state.QUEUED, _state.STOPPED, _state.FAILED, _state.RUNNING),
        _state.QUEUED,
        "A user resumes it; a running one only once its lease expired.",
    )
    FINISH = Transition((_state.RUNNING,), _state.DONE, "The report is written.")
    FAIL = Transition((_state.RUNNING,), _state.FAILED, "None of its backbones could be trained.")
    STOP = Transition((_state.RUNNING,), _state.STOPPED, "A user stops its command.")
    CANCEL = Transition((_state.QUEUED,), _state.STOPPED, "A user cancels it before it is claimed.")
    REQUEUE = Transition((_state.RUNNING,), _state.QUEUED, "Its worker stops.")
    EXPIRE = Transition((_state.RUNNING,), _state.QUEUED, "The lease of a worker expires.")
    EXPIRE_LAST = Transition((_state.RUNNING,), _state.FAILED, "The lease of a worker expires too often.")
    EXPIRE_COMMAND = Transition((_state.RUNNING,), _state.STOPPED, "The lease of a command expires.")


class ModelChange:
    """The transitions of a model."""

    _state = ModelState
    REGISTER = Transition((), _state.CANDIDATE, "It is imported.")
    PROMOTE = Transition(
        (_state.CANDIDATE, _state.RETIRED), _state.CHAMPION, "A user, a gate or a rollback makes it champion."
    )
    RETIRE = Transition((_state.CHAMPION,), _state.RETIRED, "Another model becomes champion.")


#: The transitions of each kind of row, in the order of the documentation.
LIFECYCLES = (CohortChange, IngestChange, ImageChange, BatchChange, NightChange, RunChange, ModelChange)


def transitions(lifecycle: type) -> dict[str, Transition[Any]]:
    """Return the transitions of one kind of row by name."""
    return {name: one for name, one in vars(lifecycle).items() if isinstance(one, Transition)}


def changing(
    table: type[Any], transition: Transition[Any], *which: ColumnElement[bool], **values: Any
) -> Update:
    """Return the UPDATE that takes the rows that match through a transition, and sets other columns too."""
    return (
        update(table)
        .where(*which, transition.where(table.state))
        .values(state=transition.to, **values)
        .execution_options(synchronize_session=False)
    )


def change(
    session: Session,
    table: type[Any],
    transition: Transition[Any],
    *which: ColumnElement[bool],
    **values: Any,
) -> int:
    """Take the rows that match through a transition; return how many there were."""
    return affected(session, changing(table, transition, *which, **values))


def affected(session: Session, statement: Update) -> int:
    """Execute an UPDATE and return the number of rows that it changed."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount
