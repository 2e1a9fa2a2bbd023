"""Clients of a simulated node: putting faults in, asking how it stands, and the source of a library's answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gpuwarden.errors import InputError
from gpuwarden.model.case import Intent, Surroundings
from gpuwarden.sim.sheet import CardSheet, NodeSheet
from gpuwarden.sim.wire import (
    Ask,
    AskAround,
    AskCard,
    AskEvents,
    AskHands,
    AskNode,
    AskStatus,
    Brought,
    Inject,
    Reply,
    SetOn,
    TellCrash,
    receive,
    send,
)
from gpuwarden.sim.world import Event

_DEADLINE_SECONDS = 5.0
_FRESH_SECONDS = 0.05  # how long a sheet is good: a lane of many calls costs one round trip
_HUNG_PAUSE_SECONDS = 0.1
_DRIVER_NOT_LOADED = 9
_Shape = TypeVar("_Shape")


def inject(path: Path, fault: str, gpu: int | None = None, *, clear: bool = False, **options: Any) -> None:
    """Put a fault into the node behind a socket, or with `clear` take it out; without a GPU wherever it is.

    Raises: InputError naming the known faults or options; OSError where no node answers.
    """
    _once(path, Inject(fault=fault, gpu=gpu, clear=clear, options=options), type(None))


def status(path: Path) -> dict[str, Any]:
    """Return how the node stands: product, time, faults that are on, and all that there are. Raises: OSError."""
    return _once(path, AskStatus(), dict)


def bring_about(path: Path, intent: Intent) -> Brought:
    """Have an effect brought about on the node behind a socket. Raises: OSError where no node answers."""
    return _once(path, AskHands(intent), Brought)


def surroundings(path: Path) -> Surroundings:
    """Return what an actuator of the node would see. Raises: OSError."""
    return _once(path, AskAround(), Surroundings)


def _once(path: Path, ask: Ask, shape: type[_Shape]) -> _Shape:
    with _connect(path) as connection:
        return _exchange(connection, ask, shape)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_DEADLINE_SECONDS)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _exchange(connection: socket.socket, ask: Ask, shape: type[_Shape]) -> _Shape:
    send(connection, ask)
    reply = receive(connection, Reply)
    if reply is None:
        raise ConnectionResetError("the simulated node is gone")
    if reply.error:
        raise InputError(reply.error)
    return msgspec.msgpack.decode(reply.body, type=shape)


class SocketSource:
    """What the library object in the worker asks: the server, over one connection per thread.

    A server that is gone looks like a driver that is not loaded. `call_seconds` is what each call costs beside.
    """

    def __init__(self, path: Path, *, call_seconds: float = 0.0) -> None:
        self._path = path
        self._call_seconds = call_seconds
        self._mine = threading.local()
        self._nodes: tuple[float, NodeSheet] | None = None
        self._cards: dict[int, tuple[float, CardSheet]] = {}

    def node(self) -> NodeSheet:
        """Return the node's sheet, at most 50 ms old."""
        known = self._nodes
        if known is None or time.monotonic() - known[0] > _FRESH_SECONDS:
            known = time.monotonic(), self._ask(AskNode(), NodeSheet, _NO_NODE)
            self._nodes = known
        return known[1]

    def card(self, slot: int) -> CardSheet:
        """Return one card's sheet, at most 50 ms old."""
        if self._call_seconds:
            time.sleep(self._call_seconds)
        known = self._cards.get(slot)
        if known is None or time.monotonic() - known[0] > _FRESH_SECONDS:
            known = time.monotonic(), self._ask(AskCard(slot), CardSheet, _NO_CARD)
            self._cards[slot] = known
        return known[1]

    def blocked(self, slot: int | None, _: str) -> None:
        """Sit for a moment; the next sheet is a new one."""
        time.sleep(_HUNG_PAUSE_SECONDS)
        if slot is None:
            self._nodes = None
        else:
            self._cards.pop(slot, None)

    def delayed(self, seconds: float) -> None:
        """Take that long."""
        time.sleep(seconds)

    def crash(self, slot: int) -> None:
        """Tell the server, and die as from a bad pointer."""
        self._ask(TellCrash(slot), type(None), None)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(_DEADLINE_SECONDS)

    def set_on(self, slot: int, function: str, numbers: Sequence[int]) -> int:
        """Call a setter on a card and return its code."""
        self._cards.pop(slot, None)
        return self._ask(SetOn(slot, function, list(numbers)), int, _DRIVER_NOT_LOADED)

    def events(self, after: int, seconds: float) -> Sequence[Event]:
        """Return the events after a number, waiting that long at most for one to come."""
        found = self._ask(AskEvents(after, seconds), list[Event], None)
        if found is None:
            time.sleep(seconds)
            return ()
        return found

    def _ask(self, ask: Ask, shape: type[_Shape], otherwise: _Shape) -> _Shape:
        """Return an answer over this thread's connection, made anew once where the old one is dead."""
        for _ in range(2):
            try:
                connection: socket.socket | None = getattr(self._mine, "connection", None)
                if connection is None:
                    connection = self._mine.connection = _connect(self._path)
                return _exchange(connection, ask, shape)
            except OSError:
                self._forget()
        return otherwise

    def _forget(self) -> None:
        connection: socket.socket | None = getattr(self._mine, "connection", None)
        self._mine.connection = None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


_NO_NODE = NodeSheet(
    session=0, init_code=_DRIVER_NOT_LOADED, hung=[], driver="", cuda=0, slots=[], uuids=[], bdfs=[], last_event=0
)
_NO_CARD = CardSheet(
    session=0, code=0, handle_code=0, codes={}, hung=None, crash=None, delayed=[], delay_seconds=0.0, answers={}
)
