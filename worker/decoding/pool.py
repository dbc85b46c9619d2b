"""The pool of decoding processes: one process for each thread that reads files."""

from __future__ import annotations

import hashlib
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

from db.errors import PneumoscreenError
from db.jobs.problems import DecoderCrashed, DecoderMemory, DecoderTimeout
from worker.decoding.decode import DecodedFile
from worker.decoding.protocol import READY, receive, receive_picture, send_file
from worker.gate.modality import Sources
from worker.imaging.limits import Limits
from worker.imaging.picture import Picture
from worker.settings import WorkerSettings

#: Seconds that a process may take to start: imports, from a cold disk of a busy machine.
_START_SECONDS = 60.0

#: The variables of our environment that a process gets: they help it find its libraries and hold no secrets.
_ENVIRONMENT = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL"}
)
#: One thread each: there is one process for each core already, and each thread reserves address space.
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class DecodersUnusable(PneumoscreenError):
    """Decoding processes do not start on this machine. See `doctor` and PNEUMOSCREEN_DECODER_MEMORY_BYTES."""

    code = "decoders-unusable"


class DecoderPool:
    """Threads that read files, each with a process that decodes them. Close the pool after use."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Take the threads, the limits of an image and the facts of the sources from the settings."""
        self.limits = Limits(max_pixels=settings.max_pixels, max_file_bytes=settings.max_file_bytes)
        self._sources = Sources(chest_only=settings.chest_only)
        self._seconds = settings.decode_seconds
        self._memory_bytes = settings.decoder_memory_bytes
        self._count = settings.decode_threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="decode")
        self._own = threading.local()
        self._started: list[_Decoder] = []

    def submit(self, read: Callable[[], bytes]) -> Future[Picture]:
        """Read and decode a file in one of the threads. The future raises ImageProblem, DecodersUnusable."""
        return self._threads.submit(self._picture, read)

    def start(self) -> None:
        """Start the processes now, so that the first file does not wait for them. Returns at once.

        A process that does not start is started again with the first file, which tells why.
        """
        for _ in range(self._count):
            self._threads.submit(self._started_process)

    def close(self) -> None:
        """Finish the files that are being decoded, and end the processes."""
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
            decoded = self._decode(content)
        except (DecoderCrashed, DecoderMemory):
            # An earlier image, or the machine, may be the cause: the image gets a fresh process, once.
            decoded = self._decode(content)
        return Picture(pixels=decoded.pixels, digest=digest, facts=decoded.facts)

    def _decode(self, content: bytes) -> DecodedFile:
        """Decode a file in this thread's process. A process that failed is ended.

        Raises ImageProblem, DecodersUnusable.
        """
        decoder = self._started_process()
        try:
            return decoder.decode(content, self._seconds)
        except (DecoderCrashed, DecoderMemory, DecoderTimeout):
            self._own.decoder = None
            self._started.remove(decoder)
            decoder.kill()
            raise

    def _started_process(self) -> _Decoder:
        """Return this thread's process, which is started if there is none. Raises DecodersUnusable."""
        decoder: _Decoder | None = getattr(self._own, "decoder", None)
        if decoder is None:
            decoder = self._own.decoder = _Decoder(self.limits, self._sources, self._memory_bytes)
            self._started.append(decoder)
        return decoder


class _Decoder:
    """One process, and the socket that leads to it."""

    def __init__(self, limits: Limits, sources: Sources, memory_bytes: int) -> None:
        """Start the process, and wait until it is ready. Raises DecodersUnusable."""
        try:
            self._socket, self._process = _start(
                limits.max_file_bytes, limits.max_pixels, memory_bytes, int(sources.chest_only)
            )
        except OSError as error:  # no memory, processes or open files are left: no image is the cause
            raise DecodersUnusable(error.strerror or "") from error
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def _await_ready(self) -> None:
        """Wait for the start of the process: it is not part of an image's time. Raises DecodersUnusable."""
        self._socket.settimeout(_START_SECONDS)
        try:
            if receive(self._socket, len(READY)):
                return
        except OSError:
            pass
        raise DecodersUnusable

    def decode(self, content: bytes, seconds: float) -> DecodedFile:
        """Send a file, and return the picture that comes back within `seconds`.

        Raises the ImageProblem that comes back instead, DecoderTimeout, DecoderCrashed.
        """
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            send_file(self._socket, content)
            return receive_picture(self._socket, deadline)
        except TimeoutError:
            raise DecoderTimeout from None
        except OSError:
            raise DecoderCrashed from None

    def kill(self) -> None:
        """End the process, whatever it is doing."""
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
                # -P: modules in the current folder, which may be a folder of images, are not imported.
                [sys.executable, "-P", "-m", "worker.decoding.process", *map(str, arguments)],
                stdin=theirs.fileno(),
                # Libraries print parts of files.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
                | _SINGLE_THREADED,
            )
        except OSError:
            ours.close()
            raise
