"""A proxy with the faults of a network: it delays, resets, swallows or refuses connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy:
    """A proxy of a port of this machine or of a Unix socket, on its own thread.

    With `tls` it terminates TLS.
    """

    def __init__(self, target: int | Path, *, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        #: Seconds of delay of every byte, in each direction.
        self.latency = 0.0
        #: How often a client was cut off by `cut_after`.
        self.cut_offs = 0
        self._target, self._tls = target, tls
        self._needles: tuple[bytes, ...] = ()
        self._silent = False
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.come_back()

    def connections(self) -> int:
        """Return how many connections go through the proxy now."""
        return len(self._links)

    def cut(self) -> int:
        """Reset every connection, on both sides; return how many there were."""
        return self._do(self._cut())

    def cut_after(self, *needles: bytes) -> None:
        """Reset the first client that sends these texts, one after another on one connection.

        The texts still reach the target, but its answer does not reach the client.
        """
        self._needles = needles

    def fall_silent(self) -> None:
        """Accept and swallow everything and answer nothing, as a firewall that has lost its connections."""
        self._silent = True
        for link in list(self._links):
            link.silent = True

    def speak(self) -> None:
        """Serve new connections again; connections from the silence stay silent for ever."""
        self._silent = False

    def go_away(self) -> None:
        """Refuse new connections, and reset the existing ones."""
        self._do(self._go_away())

    def come_back(self) -> None:
        """Listen at the same port again."""
        self._do(self._listen())

    def close(self) -> None:
        """Refuse connections, and end the thread."""
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port, ssl=self._tls)

    async def _go_away(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            reset(writer)
            return
        link = _Link(self, writer, far_writer, silent=self._silent)
        self._links.add(link)
        try:
            await asyncio.gather(link.carry_there(reader), link.carry_back(far_reader))
        finally:
            self._links.discard(link)
            link.reset()

    def is_last_needle(self, content: bytes, seen: int) -> tuple[int, bool]:
        """Return how many needles a connection has sent by now, and whether to cut it off."""
        while seen < len(self._needles) and self._needles[seen] in content:
            seen += 1
        if not self._needles or seen < len(self._needles):
            return seen, False
        self._needles = ()
        self.cut_offs += 1
        return 0, True


class _Link:
    """A client's connection and the matching connection to the target."""

    def __init__(
        self, proxy: Proxy, near: asyncio.StreamWriter, far: asyncio.StreamWriter, *, silent: bool
    ) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self.silent = silent

    async def carry_there(self, reader: asyncio.StreamReader) -> None:
        """Carry the client's bytes to the target."""
        seen, cut_off = 0, False
        async with _Pipe(self._proxy, self._far) as pipe:
            while not cut_off and (content := await _read(reader)):
                if not self.silent:
                    pipe.put(content)
                    seen, cut_off = self._proxy.is_last_needle(content, seen)
            if cut_off:
                reset(self._near)

    async def carry_back(self, reader: asyncio.StreamReader) -> None:
        """Carry the target's bytes to the client."""
        async with _Pipe(self._proxy, self._near) as pipe:
            while content := await _read(reader):
                if not self.silent:
                    pipe.put(content)

    def reset(self) -> None:
        """Reset both sides."""
        reset(self._near)
        reset(self._far)


class _Pipe:
    """A pipe that writes its content after the proxy's latency, and at the end closes its writer."""

    def __init__(self, proxy: Proxy, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._writer = proxy, writer
        self._on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, content: bytes) -> None:
        self._on_the_way.put_nowait((self._loop.time() + self._proxy.latency, content))

    async def __aenter__(self) -> _Pipe:
        self._writing = asyncio.ensure_future(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.put(b"")
        await self._writing

    async def _write(self) -> None:
        with suppress(OSError, ssl.SSLError):
            while True:
                due, content = await self._on_the_way.get()
                await asyncio.sleep(max(due - self._loop.time(), 0))
                if not content:
                    break
                self._writer.write(content)
                await self._writer.drain()
            # Only the writing half: the target must still process what it was sent before.
            if self._writer.can_write_eof():
                self._writer.write_eof()
            else:
                self._writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except (OSError, ssl.SSLError):
        return b""


def reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection: the next read or write of the other side fails."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
