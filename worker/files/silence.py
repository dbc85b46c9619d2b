"""Silence of the libraries that read images and fetch them."""

from __future__ import annotations

import logging
import re
import warnings

_READERS = ("pydicom", "PIL", "pylibjpeg", "openjpeg", "jpeg_ls", "rle")
#: Their errors name the URL.
_FETCHERS = ("aiohttp", "asyncio", "botocore", "fsspec", "paramiko", "s3fs", "urllib3")
_MODULES = rf"({'|'.join(_READERS)})(\.|$)"
_FILTER = ("ignore", None, Warning, re.compile(_MODULES), 0)


def silence_libraries() -> None:
    """Keep what libraries say of bad headers and files out of stderr and logs: they quote values and names.

    What is wrong with an image, its ImageProblem says. Filters belong to the process and not to a thread,
    so they are set once and stay: taking them back after each image would race between threads.
    """
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_MODULES)
    for library in _READERS + _FETCHERS:
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
