"""The entry of the command line: `pneumoscreen` and `python -m scheduler`."""

from __future__ import annotations

import gc

# Importing makes many objects and frees few: the collector would go through all of them in vain, for
# a tenth of the time that `status` takes.
gc.disable()

from scheduler.cli import main  # noqa: E402  (what the collector would go through)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
