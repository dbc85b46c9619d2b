"""The messages between a worker and its decoding processes.

A process sends READY once. Then the worker sends files, each with its length before it, and the process
answers each with a header in JSON, its length before it. If the header names no problem, the pixels of the
picture follow, uint8 (224, 224, 3).
"""

from __future__ import annotations

import builtins
import json
import socket
import struct
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from db.jobs.problems import DecoderCrashed, ImageProblem, every_problem
from worker.decoding.decode import DecodedFile
from worker.imaging.picture import SIDE, HeaderFacts

#: The first byte that a process sends, when all its modules are loaded.
READY = b"R"

_FILE_LENGTH, _HEADER_LENGTH = struct.Struct(">Q"), struct.Struct(">I")

#: Longest header of a reply, in bytes.
_HEADER_BYTES = 4096
_PICTURE_BYTES = SIDE * SIDE * 3


def send_file(connection: socket.socket, content: bytes) -> None:
    """Send a file. Raises OSError, TimeoutError."""
    # Two calls, and not a copy of the file after its length.
    connection.sendall(_FILE_LENGTH.pack(len(content)))
    connection.sendall(content)


def receive_file(connection: socket.socket) -> bytes | None:
    """Return the next file, None if the worker has ended. Raises OSError."""
    packed = connection.recv(_FILE_LENGTH.size, socket.MSG_WAITALL)
    if len(packed) < _FILE_LENGTH.size:
        return None
    (length,) = _FILE_LENGTH.unpack(packed)
    # The kernel writes into the object that the decoder gets.
    content = connection.recv(length, socket.MSG_WAITALL)
    return content if len(content) == length else None


def send_picture(connection: socket.socket, decoded: DecodedFile) -> None:
    """Answer with a picture. Raises OSError."""
    facts = None if decoded.facts is None else asdict(decoded.facts)
    connection.sendall(_header({"facts": facts}) + decoded.pixels.tobytes())


def send_problem(connection: socket.socket, code: str, error: str = "") -> None:
    """Answer with the code of a problem, and the name of an unforeseen error. Raises OSError."""
    connection.sendall(_header({"problem": code, "error": error}))


def receive_picture(connection: socket.socket, deadline: float) -> DecodedFile:
    """Return the picture that a process answers with by a `deadline` of `time.monotonic`.

    The process may have been taken over by a file: nothing that it sends is trusted.
    Raises the ImageProblem that it answers with, DecoderCrashed for any other answer, OSError, TimeoutError.
    """
    (length,) = _HEADER_LENGTH.unpack(_receive_all(connection, _HEADER_LENGTH.size, deadline))
    if length > _HEADER_BYTES:
        raise DecoderCrashed
    try:
        header = json.loads(_receive_all(connection, length, deadline))
        if "problem" in header:
            raise _problem(header)
        facts = _facts(header["facts"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DecoderCrashed from None
    pixels = np.frombuffer(_receive_all(connection, _PICTURE_BYTES, deadline), np.uint8)
    return DecodedFile(pixels.reshape(SIDE, SIDE, 3), facts)


def receive(connection: socket.socket, size: int, deadline: float | None = None) -> bytearray | None:
    """Return exactly `size` bytes, None if the other side has closed the connection.

    `deadline`, in the time of `time.monotonic`, is for all bytes together, even if they come one by one.
    Raises OSError, TimeoutError.
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


def _receive_all(connection: socket.socket, size: int, deadline: float) -> bytearray:
    content = receive(connection, size, deadline)
    if content is None:
        raise DecoderCrashed
    return content


def _header(header: dict[str, Any]) -> bytes:
    content = json.dumps(header).encode()
    return _HEADER_LENGTH.pack(len(content)) + content


def _facts(values: dict[str, Any] | None) -> HeaderFacts | None:
    """Return the facts that a header holds. Raises TypeError."""
    if values is None:
        return None
    if not all(value is None or isinstance(value, str) for value in values.values()):
        raise TypeError
    return HeaderFacts(**values)


def _problem(header: dict[str, Any]) -> ImageProblem:
    """Return the problem that a header names, DecoderCrashed for a code that our code does not send."""
    found = every_problem().get(header["problem"])
    if found is None:
        return DecoderCrashed()
    # The detail goes into the log: only names of Python's own errors, no text of a file.
    error = str(header.get("error", ""))
    return found(error if hasattr(builtins, error) else "")
