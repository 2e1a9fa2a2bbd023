"""Captures on their way to whoever asked for them: what the engine takes is kept until it is fetched, and no longer.

The daemon writes no file: the command that asked does, as its own user, wherever that user may. Everything is bounded:
one capture at a time, so many bytes not yet fetched, so many seconds without a fetch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from gpuwarden.capture import Recorder
from gpuwarden.errors import InputError
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import AnyObservation
from gpuwarden.model.snapshot import NodeState

_MOST_WAITING_BYTES = 32 << 20
_FORGOTTEN_SECONDS = 30.0


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/capture. `number` is the answer to `start`, for `fetch` and `stop`."""

    action: Literal["start", "fetch", "stop"]
    number: int = 0
    mask: bool = True


class CaptureStream:
    """The one capture that runs, if any. `node` gives the present state, `clock` monotonic seconds."""

    def __init__(
        self,
        node: Callable[[], NodeState],
        host: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_waiting_bytes: int = _MOST_WAITING_BYTES,
    ) -> None:
        self._node = node
        self._host = host
        self._clock = clock
        self._most = most_waiting_bytes
        self._number = 0
        self._recorder: Recorder | None = None
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._fetched_at = 0.0

    def taken(self, observation: AnyObservation, events: Iterable[Event]) -> None:
        """Keep one step of the engine, if somebody captures. Called in the main loop: no I/O."""
        if self._recorder is None:
            return
        if self._clock() - self._fetched_at > _FORGOTTEN_SECONDS or self._bytes > self._most:
            self._end()
            return
        self._keep(self._recorder.lines(observation, events))

    async def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer POST /api/v1/capture: `number` of the capture, and the `lines` that are new, as text.

        Raises: InputError for a request that makes no sense, while another capture runs, or for one that has ended.
        """
        try:
            asked = msgspec.convert(body, Asked)
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from None
        if asked.action == "start":
            self._start(asked.mask)
        elif self._recorder is None or asked.number != self._number:
            raise InputError("this capture has ended: it was not fetched in time, or the daemon started anew")
        self._fetched_at = self._clock()
        lines, self._waiting, self._bytes = self._waiting, [], 0
        if asked.action == "stop":
            self._end()
        return {"number": self._number, "lines": b"".join(lines).decode("utf-8")}

    def _start(self, mask: bool) -> None:
        if self._recorder is not None and self._clock() - self._fetched_at <= _FORGOTTEN_SECONDS:
            raise InputError("another capture runs; one at a time")
        self._end()
        self._number += 1
        self._recorder = Recorder(self._node(), host=self._host, mask=mask)
        self._keep(self._recorder.header)

    def _keep(self, lines: bytes) -> None:
        self._waiting.append(lines)
        self._bytes += len(lines)

    def _end(self) -> None:
        self._recorder = None
        self._waiting, self._bytes = [], 0
