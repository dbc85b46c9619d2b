"""What commands import, for the process of which copies run commands."""

from importlib import import_module

# First, as when a command starts.
import_module("scheduler.__main__")

from worker.torchvision_pair import import_torchvision  # noqa: E402

import_torchvision()
for _name in (
    "db.upkeep.migrate",
    "fastai.vision.learner",
    "scheduler.dispatch",
    "scheduler.tasks",
    "training.tasks",
    "worker.runtime.torch.runtime",
    "worker.tasks",
):
    import_module(_name)
