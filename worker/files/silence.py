"""The silencing of the libraries that read and fetch images."""

from __future__ import annotations

import logging
import re
import warnings

_READERS = ("pydicom", "PIL", "pylibjpeg", "openjpeg", "jpeg_ls", "rle")
#: Their messages contain the URL.
_FETCHERS = ("aiohttp", "asyncio", "botocore", "fsspec", "paramiko", "s3fs", "urllib3")
_MODULES = rf"({'|'.join(_READERS)})(\.|$)"
_SILENT = logging.CRITICAL + 1
_FILTER = ("ignore", None, Warning, re.compile(_MODULES), 0)


def silence_libraries() -> None:
    """Keep messages about bad headers and files out of stderr and logs: libraries quote values and names.

    The ImageProblem says what is wrong with an image. Filters belong to the process, not to a thread. So they
    are set once and stay: their removal after each image would race between threads.
    """
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_MODULES)
    for library in _READERS + _FETCHERS:
        logger = logging.getLogger(library)
        # It is called for each file, and to set a level empties the caches of all loggers.
        if logger.level != _SILENT:
            logger.setLevel(_SILENT)
