"""A screening worker with the fault that `FAULT` names: `celery -A tests.faults.broken_worker worker`.

Without a fault it is a worker like any other.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import Any

from celery.signals import worker_init
from sqlalchemy import event
from sqlalchemy.orm import Session

from worker.broker.app import SCREEN
from worker.tasks import app, load_champion

__all__ = ["app"]

FAULT = os.environ.get("FAULT", "")
#: Extra seconds of each forward pass.
SLOWLY = float(os.environ.get("SLOWLY", "0"))


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_at_the_write_back(moment: str) -> None:
    """Die after everything was written: right before the commit, or right after it."""
    import worker.screening.batch

    really = worker.screening.batch.complete

    @functools.wraps(really)
    def complete(session: Session, *args: Any) -> None:
        really(session, *args)
        session.flush()
        event.listen(session, moment, die)

    worker.screening.batch.complete = complete


def die_between_pop_and_bookkeeping() -> None:
    """Die after a message has left its queue and before kombu notes that it is not acknowledged."""
    from kombu.transport.redis import QoS

    note = QoS.append

    def append(self: QoS, message: Any, delivery_tag: str) -> None:
        if message.delivery_info["routing_key"] == SCREEN:
            die()
        note(self, message, delivery_tag)

    QoS.append = append
    # This worker never screens, so it does not wait for torch and the model.
    worker_init.disconnect(load_champion)


def predict_slowly() -> None:
    import worker.screening.step

    really = worker.screening.step.predict

    def predict(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOWLY)
        return really(*args, **kwargs)

    worker.screening.step.predict = predict


def predict_nothing() -> None:
    """Skip forward passes: every probability is the same."""
    import numpy as np

    from worker.runtime.features import feature_count
    from worker.runtime.protocol import Output
    from worker.runtime.torch.runtime import TorchRuntime

    os.environ["PNEUMOSCREEN_RUNTIME"] = "torch"

    def forward(self: TorchRuntime, pixels: Any, *_: Any) -> Output:
        classes = len(self.card.classes)
        equal = np.full((len(pixels), classes), 1 / classes, dtype=np.float32)
        return Output(equal, np.zeros((len(pixels), feature_count(self.card.backbone)), dtype=np.float32))

    TorchRuntime._forward = forward


def lose_the_gpu() -> None:
    """Fail in every forward pass, as a process does after an error of its GPU."""
    import torch

    from worker.runtime.torch.runtime import TorchRuntime

    os.environ["PNEUMOSCREEN_RUNTIME"] = "torch"

    def forward(self: TorchRuntime, *_: Any) -> Any:
        self.device = torch.device("cuda")
        raise RuntimeError("CUDA error: unspecified launch failure")

    TorchRuntime._forward = forward


if FAULT in ("before_commit", "after_commit"):
    die_at_the_write_back(FAULT)
elif FAULT == "after-pop":
    die_between_pop_and_bookkeeping()
elif FAULT == "impatient-broker":
    app.conf.broker_transport_options |= {
        "visibility_timeout": 2,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
elif FAULT == "no-model":
    predict_nothing()
elif FAULT == "lost-gpu":
    lose_the_gpu()
if SLOWLY:
    predict_slowly()
