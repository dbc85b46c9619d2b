"""A process that decodes files: it receives bytes and sends pictures. `worker.decoding.pool` starts it.

Decoders are written in C, and files may be hostile. In a process of its own, a crash, an endless loop or too
much memory costs one image and not the worker. An attacker who takes over this process finds none of the
worker's environment, open files, connections and leases, and cannot write to a file. The process is no
sandbox: it can read what the worker can read.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import socket
import sys

from db.jobs.problems import DecoderMemory, ImageProblem, ScreeningFailed
from worker.decoding.decode import decode_file
from worker.decoding.protocol import READY, receive_file, send_picture, send_problem
from worker.gate.modality import Sources
from worker.imaging.limits import Limits

#: Linux' <sys/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def serve(connection: socket.socket, limits: Limits, sources: Sources) -> None:
    """Report that all modules are loaded, and decode files until the worker ends."""
    connection.sendall(READY)
    while (content := receive_file(connection)) is not None:
        _answer(connection, content, limits, sources)


def _answer(connection: socket.socket, content: bytes, limits: Limits, sources: Sources) -> None:
    try:
        decoded = decode_file(content, limits, sources)
    except ImageProblem as problem:
        send_problem(connection, problem.code)
    except MemoryError:
        send_problem(connection, DecoderMemory.code)
    except Exception as error:  # an unforeseen error costs this image alone; its text may quote the file
        send_problem(connection, ScreeningFailed.code, type(error).__name__)
    else:
        send_picture(connection, decoded)


def _confine(memory_bytes: int) -> None:
    """Give up all rights that decoding does not need."""
    # The worker decides when this process ends: it still needs pictures of its last batch after a TERM to the
    # whole process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # No file can be written, and no core dump with a radiograph in it.
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # A decoder in an endless loop does not notice that its worker was killed.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main(max_file_bytes: int, max_pixels: int, memory_bytes: int, chest_only: int) -> None:
    """Serve the worker at the other end of standard input, which is a socket."""
    _confine(memory_bytes)
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        limits = Limits(max_file_bytes=max_file_bytes, max_pixels=max_pixels)
        serve(connection, limits, Sources(chest_only=bool(chest_only)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
