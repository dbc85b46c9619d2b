"""What steps import, for the process of which copies run steps. Nothing of it uses a GPU."""

from importlib import import_module

from worker.torchvision_pair import import_torchvision

import_torchvision()
for _name in ("fastai.vision.all", "scheduler.tasks", "worker.runtime.torch.runtime", "worker.tasks"):
    import_module(_name)
