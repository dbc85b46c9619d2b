"""Decoding in processes of their own: `worker.decoding.process`, one for each thread that reads files."""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np

from db.errors import PneumoscreenError
from db.jobs.problems import DecoderCrashed, DecoderMemory, DecoderTimeout, ImageProblem, every_problem
from worker.decoding.process import FILE_LENGTH, HEADER_LENGTH, READY, receive
from worker.imaging import SIDE, Limits, Picture
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Bytes of a picture.
_PICTURE = SIDE * SIDE * 3
#: The longest header that a decoder has reason to send.
_LONGEST_HEADER = 1024
#: Seconds that a decoder may take to start: imports, from a cold disk of a busy machine.
_START_SECONDS = 60.0

#: What a decoder may know of our environment: how to find its libraries, and no credentials.
_ENVIRONMENT = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL"}
)
#: One thread each: there is a decoder for each core already, and each thread reserves address space.
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class DecodersUnusable(PneumoscreenError):
    """Decoding processes do not start on this machine. See `doctor` and PNEUMOSCREEN_DECODER_MEMORY_BYTES."""

    code = "decoders-unusable"


class DecoderPool:
    """Threads that read files, each with a process that decodes them; to be closed after use."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Take from the settings how many there are, and what one image may take."""
        self.limits = Limits(max_pixels=settings.max_pixels, max_file_bytes=settings.max_file_bytes)
        self._seconds = settings.decode_seconds
        self._memory_bytes = settings.decoder_memory_bytes
        count = settings.decode_threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._own = threading.local()
        self._started: list[_Decoder] = []

    def submit(self, read: Callable[[], bytes]) -> Future[Picture]:
        """Have a file read and decoded; the future may raise ImageProblem, DecodersUnusable."""
        return self._threads.submit(self._picture, read)

    def close(self) -> None:
        """Finish what was submitted, and end the processes."""
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._started:
            decoder.kill()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _picture(self, read: Callable[[], bytes]) -> Picture:
        content = read()
        digest = hashlib.sha256(content).hexdigest()
        try:
            header, pixels = self._decode(content)
        except (DecoderCrashed, DecoderMemory):
            # It may have been weakened or killed for what others took: the image gets a fresh one, once.
            header, pixels = self._decode(content)
        return Picture(
            pixels=np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3),
            digest=digest,
            instance_uid=header.get("instance"),
        )

    def _decode(self, content: bytes) -> tuple[dict[str, Any], bytearray]:
        """Exchange a file for a header and pixels; a decoder that failed is ended.

        Raises ImageProblem, DecodersUnusable.
        """
        decoder: _Decoder | None = getattr(self._own, "decoder", None)
        if decoder is None:
            decoder = self._own.decoder = _Decoder(self.limits, self._memory_bytes)
            self._started.append(decoder)
        try:
            return decoder.exchange(content, self._seconds)
        except (DecoderCrashed, DecoderMemory, DecoderTimeout):
            self._own.decoder = None
            self._started.remove(decoder)
            decoder.kill()
            raise


class _Decoder:
    """One process, and the socket that leads to it."""

    def __init__(self, limits: Limits, memory_bytes: int) -> None:
        """Start it, and wait until it is ready. Raises DecodersUnusable."""
        try:
            self._socket, self._process = _start(limits.max_file_bytes, limits.max_pixels, memory_bytes)
        except OSError as error:  # memory, processes or open files have run out, which is no image's doing
            raise DecodersUnusable(error.strerror or "") from error
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def _await_ready(self) -> None:
        """Wait until it is loaded: an image's time begins then. Raises DecodersUnusable."""
        self._socket.settimeout(_START_SECONDS)
        try:
            if receive(self._socket, len(READY)):
                return
        except OSError:
            pass
        raise DecodersUnusable

    def exchange(self, content: bytes, seconds: float) -> tuple[dict[str, Any], bytearray]:
        """Send a file and return the header and the pixels that come back.

        Raises the ImageProblem that comes back instead, DecoderTimeout, DecoderCrashed.
        """
        deadline = time.monotonic() + seconds
        try:
            # For all that is sent; what is received is held to the deadline, however it drips.
            self._socket.settimeout(seconds)
            self._socket.sendall(FILE_LENGTH.pack(len(content)) + content)
            (length,) = HEADER_LENGTH.unpack(self._receive(HEADER_LENGTH.size, deadline))
            if length > _LONGEST_HEADER:
                raise DecoderCrashed
            header = json.loads(self._receive(length, deadline))
            if "problem" in header:
                raise _problem(header)
            return header, self._receive(_PICTURE, deadline)
        except TimeoutError:
            raise DecoderTimeout from None
        except (OSError, ValueError, TypeError):
            raise DecoderCrashed from None

    def _receive(self, size: int, deadline: float) -> bytearray:
        content = receive(self._socket, size, deadline)
        if content is None:
            raise DecoderCrashed
        return content

    def kill(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._socket.close()


def _start(*arguments: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a process; return the socket that leads to it, and the process. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            return ours, subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                # -P: the current folder, which may be one of images, holds no module of ours.
                [sys.executable, "-P", "-m", "worker.decoding.process", *map(str, arguments)],
                stdin=theirs.fileno(),
                # What libraries print of a file is for nobody.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
                | _SINGLE_THREADED,
            )
        except OSError:
            ours.close()
            raise


def _problem(header: dict[str, Any]) -> ImageProblem:
    """Return the problem that a header names; what is none of ours was not written by our code."""
    found = every_problem().get(header["problem"])
    if found is None:
        raise DecoderCrashed
    # It goes into the log: Python's own names of errors, and no word of somebody's.
    error = str(header.get("error", ""))
    return found(error if hasattr(builtins, error) else "")
