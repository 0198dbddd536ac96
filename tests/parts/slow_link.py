"""A link before a server, on which packets take their time: every piece is passed on as it is, later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

_PIECE_BYTES = 1 << 16


class SlowLink:
    """Passes connections on to a port of this machine, from a thread of its own.

    Attributes:
        delay_s: Seconds that every piece takes towards the server, and again on its way back.
    """

    def __init__(self, port: int) -> None:
        """
        Args:
            port: Where the server listens, on 127.0.0.1.
        """
        self.delay_s = 0.0
        self.port = 0
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="slow-link", daemon=True)

    @property
    def url(self) -> str:
        """Where to ask instead of the server."""
        return f"http://127.0.0.1:{self.port}"

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Copy until the end; pieces overtake nothing, and many are on their way at once."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not data:
                    break
                target.write(data)
                await target.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(_PIECE_BYTES):
                    pieces.put_nowait((self._loop.time() + self.delay_s, data))
            pieces.put_nowait((self._loop.time() + self.delay_s, b""))
            with contextlib.suppress(OSError):
                await delivering
        finally:
            delivering.cancel()
            target.close()

    def __enter__(self) -> SlowLink:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
