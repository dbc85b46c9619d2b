"""The states of the job table; `db.transitions` says which may follow which."""

from __future__ import annotations

from enum import StrEnum


class CohortState(StrEnum):
    """How far a cohort has been taken in."""

    #: Its source is being walked; more images may come.
    INGESTING = "ingesting"
    #: Every image that the source held has a row.
    READY = "ready"
    #: Nothing of it is handed out any more.
    CANCELLED = "cancelled"


class IngestState(StrEnum):
    """How far one source of a cohort has been walked."""

    #: A command walks it.
    RUNNING = "running"
    #: It was walked to its end, or its cohort was cancelled.
    ENDED = "ended"
    #: The command died or failed on the way; the same `submit` goes on.
    BROKEN_OFF = "broken-off"


class ImageState(StrEnum):
    """What has become of one image."""

    #: Taken in, in no batch yet.
    PENDING = "pending"
    #: In a batch that no worker has claimed.
    QUEUED = "queued"
    #: In a batch that a worker holds.
    RUNNING = "running"
    #: Has a prediction.
    DONE = "done"
    #: Readable, but not for this system; `problem` says why.
    SKIPPED = "skipped"
    #: Could not be screened; `problem` says why.
    FAILED = "failed"


class BatchState(StrEnum):
    """What has become of one batch."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: A worker holds its lease.
    RUNNING = "running"
    #: Its results are written.
    DONE = "done"
    #: Lost too often; its images went on in smaller batches.
    SPLIT = "split"
    #: Its cohort was cancelled before a worker claimed it.
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """What has become of one training run."""

    #: Waits for a training worker.
    QUEUED = "queued"
    #: Somebody holds its lease.
    RUNNING = "running"
    #: Its report is written; some of its backbones may have failed.
    DONE = "done"
    #: None of its backbones could be trained; `problem` says why.
    FAILED = "failed"
    #: Stopped by its user or lost with its command; `retrain --resume` goes on from its last epoch.
    STOPPED = "stopped"


class NightState(StrEnum):
    """What has become of one slot of a nightly schedule."""

    #: The slot that had passed when the schedule was first seen: where counting begins. Nothing ran.
    BASELINE = "baseline"
    #: Waits for its source to be walked.
    WAITING = "waiting"
    #: Somebody walks its source.
    INGESTING = "ingesting"
    #: Its images are being screened.
    SCREENING = "screening"
    #: All its images have ended.
    DONE = "done"
    #: Its window ended first; what is left goes on in the next one.
    HELD = "held"
    #: Its source could not be walked; `problem` says why. The next slot finds what it missed.
    FAILED = "failed"


class ModelState(StrEnum):
    """What a model is allowed to do."""

    #: Registered, screens only when asked for by name.
    CANDIDATE = "candidate"
    #: Screens every cohort that names no model; there is one at most.
    CHAMPION = "champion"
    #: Was champion before; `rollback` makes the last of these champion again.
    RETIRED = "retired"


#: An image in one of these states is finished.
TERMINAL = (ImageState.DONE, ImageState.SKIPPED, ImageState.FAILED)
#: An image in one of these states has not ended.
UNFINISHED = (ImageState.PENDING, ImageState.QUEUED, ImageState.RUNNING)
#: An image in one of these states belongs to a batch that is under way.
IN_FLIGHT = (ImageState.QUEUED, ImageState.RUNNING)
#: An ingest in one of these states keeps its cohort open.
UNFINISHED_INGEST = (IngestState.RUNNING, IngestState.BROKEN_OFF)
