"""Silence of the libraries that read images."""

from __future__ import annotations

import logging
import re
import warnings

_LIBRARIES = ("pydicom", "PIL", "pylibjpeg", "openjpeg", "jpeg_ls", "rle")
_MODULES = rf"({'|'.join(_LIBRARIES)})(\.|$)"
_FILTER = ("ignore", None, Warning, re.compile(_MODULES), 0)


def silence_libraries() -> None:
    """Keep what pydicom and Pillow say about bad headers out of stderr and logs: they quote header values.

    What is wrong with an image, its ImageProblem says. Filters belong to the process and not to a thread,
    so they are set once and stay: taking them back after each image would race between threads.
    """
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_MODULES)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
