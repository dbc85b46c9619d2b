"""A process that decodes: the bytes of files in, pictures out. `worker.decoding.pool` starts it.

Decoders are written in C and read what strangers send. Here a crash, a hang or a hunger for memory costs one
image and no worker; and whoever takes a decoder over has none of the worker's environment, open files,
connections and leases, and cannot write into a file. It is no sandbox: it may read what the worker may.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import socket
import struct
import sys
import time
from typing import Any

from db.jobs.problems import DecoderMemory, ImageProblem, ScreeningFailed
from worker.imaging import Limits, decode
from worker.imaging.dicom import instance_uid

#: Lengths of a file and of a reply's header, in front of each.
FILE_LENGTH, HEADER_LENGTH = struct.Struct(">Q"), struct.Struct(">I")

#: What a decoder says first.
READY = b"R"

#: Linux' <sys/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def receive(connection: socket.socket, size: int, deadline: float | None = None) -> bytearray | None:
    """Return exactly so many bytes, None where the other side is gone.

    Raises OSError, TimeoutError past a `deadline` of `time.monotonic`: byte by byte, too, it holds for all.
    """
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        got = connection.recv_into(rest)
        if not got:
            return None
        rest = rest[got:]
    return content


def serve(connection: socket.socket, limits: Limits) -> None:
    """Say that all is loaded, and decode one file after another until the worker is gone."""
    connection.sendall(READY)
    while (length := receive(connection, FILE_LENGTH.size)) is not None:
        content = receive(connection, *FILE_LENGTH.unpack(length))
        if content is None:
            return
        connection.sendall(_reply(bytes(content), limits))


def _reply(content: bytes, limits: Limits) -> bytes:
    """Return a header as JSON, its length before it and the picture's pixels, if there are any, behind it."""
    header: dict[str, Any] = {}
    pixels = b""
    try:
        pixels = decode(content, limits).tobytes()
        header["instance"] = instance_uid(content)
    except ImageProblem as problem:
        header["problem"] = problem.code
    except MemoryError:
        header["problem"] = DecoderMemory.code
    except Exception as error:  # an unforeseen error costs this image alone; its text may quote the file
        header |= {"problem": ScreeningFailed.code, "error": type(error).__name__}
    head = json.dumps(header).encode()
    return HEADER_LENGTH.pack(len(head)) + head + (b"" if "problem" in header else pixels)


def _confine(memory_bytes: int) -> None:
    """Give up what decoding does not need."""
    # The worker decides when it ends: a TERM to the whole group must not cost the images of its last batch.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # No file may be written, and no core dump of somebody's radiograph.
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # A decoder that hangs does not notice that its worker was killed.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main(max_file_bytes: int, max_pixels: int, memory_bytes: int) -> None:
    """Serve the worker at the other end of standard input, which is a socket."""
    _confine(memory_bytes)
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        serve(connection, Limits(max_file_bytes=max_file_bytes, max_pixels=max_pixels))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
