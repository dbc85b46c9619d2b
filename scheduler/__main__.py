"""The entry of the command line: `pneumoscreen` and `python -m scheduler`."""

from __future__ import annotations

import gc

# Imports create many objects and free few. The garbage collector would search all of them and find nothing,
# which takes a tenth of the time of `status`.
gc.disable()

from scheduler.cli import main  # noqa: E402  (only after the collector is off)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
