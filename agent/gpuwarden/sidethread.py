"""A daemon thread that takes calls one after the other: for what is slow or can hang, away from the event loop.

Not asyncio's executor: a call that never returns there would hold up the end of the process and, in time, every other
caller. Here it holds up this thread's own callers, each for at most its time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class BusyError(Exception):
    """The queue is full."""


class SideThread:
    """One named thread, started with the first call, with a queue of at most `depth` calls."""

    def __init__(self, name: str, depth: int) -> None:
        self._name = name
        self._calls: queue.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.Queue(depth)
        self._thread: threading.Thread | None = None

    async def call(self, work: Callable[[], _Result], seconds: float) -> _Result:
        """Return what `work` returns, or raise what it raises.

        Raises: BusyError when too many wait already, TimeoutError after `seconds`; the call itself is not stopped.
        """
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        try:
            self._calls.put_nowait((work, future))
        except queue.Full:
            raise BusyError(f"{self._name}: too many calls wait") from None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        async with asyncio.timeout(seconds):
            return await future

    def close(self) -> None:
        """Let the thread end once it has nothing left to do; does not wait for it."""
        with contextlib.suppress(queue.Full):
            self._calls.put_nowait(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            work, future = call
            if future.done():  # nobody waits any more
                continue
            result: Any = None
            error: Exception | None = None
            try:
                result = work()
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever asked
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
