"""NVML's own events: a thread that waits for them, and what it makes of each.

Nothing is replayed by NVML: what came before the registration is lost, which is why the kernel log is read as well.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml

from gpuwarden.nvml.codes import code_of
from gpuwarden.nvml.wire import FromWorker, NvmlSaid

_WAIT_MILLISECONDS = 1000
_FIRST_WAITS_MILLISECONDS = 100
_SETTLING_SECONDS = 5.0
"""GPUs are registered between two waits. While they are being opened the waits are short: what happens to a GPU
before its registration is lost."""
_TIMEOUT = 10
_NOT_HERE = frozenset({3, 13})
_NO_INSTANCE = 0xFFFFFFFF
_XID = 0x8
_OTHERS = {0x1: "ecc_single", 0x2: "ecc_double", 0x4000: "unavailable", 0x8000: "recovery_action"}
_KINDS = {_XID: "xid", **_OTHERS}
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


def address(handle: Any) -> int:
    """Return what tells two device handles apart."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


class EventsThread(threading.Thread):
    """Waits for events of every GPU it was given. Ends where there are none; a broken set is built anew."""

    def __init__(self, tell: Callable[[FromWorker], None]) -> None:
        super().__init__(name="nvml-events", daemon=True)
        self._tell = tell
        self._bdf_of: dict[int, str] = {}
        self._new: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        self._lock = threading.Lock()

    def add(self, bdf: str, handle: Any) -> None:
        """Have a GPU's events told from the next wait on; called from that GPU's thread."""
        with self._lock:
            self._bdf_of[address(handle)] = bdf
            self._new[bdf] = self._known[bdf] = handle

    def run(self) -> None:
        """Build a set and wait on it, again and again, with a growing pause after failures."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            code = self._serve()
            if code in _NOT_HERE:
                return
            threading.Event().wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            with self._lock:
                self._new = dict(self._known)

    def _serve(self) -> int:
        """Wait on one event set until it fails; return the code."""
        try:
            events = pynvml.nvmlEventSetCreate()
        except Exception as error:  # a foreign library may fail in any way
            return code_of(error)
        settled = time.monotonic() + _SETTLING_SECONDS
        try:
            while True:
                self._register(events)
                wait = _FIRST_WAITS_MILLISECONDS if time.monotonic() < settled else _WAIT_MILLISECONDS
                try:
                    self._say(pynvml.nvmlEventSetWait_v2(events, wait))
                except Exception as error:
                    if code_of(error) != _TIMEOUT:
                        return code_of(error)
        finally:
            _free(events)

    def _register(self, events: Any) -> None:
        """Register what is new: Xids first and alone, since one unsupported bit refuses all of a registration."""
        with self._lock:
            new, self._new = self._new, {}
        for handle in new.values():
            offered = _supported(handle)
            for bits in (_XID, *_OTHERS):
                if offered & bits:
                    _register_one(handle, bits, events)

    def _say(self, event: Any) -> None:
        with self._lock:
            bdf = self._bdf_of.get(address(event.device))
        if bdf is None:
            return
        self._tell(
            NvmlSaid(
                bdf=bdf,
                kind=_KINDS.get(event.eventType, "other"),
                code=int(event.eventData) if event.eventType == _XID else 0,
                gi=_instance(event.gpuInstanceId),
                ci=_instance(event.computeInstanceId),
            )
        )


def _instance(number: int) -> int | None:
    return None if number == _NO_INSTANCE else int(number)


def _supported(handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
    except Exception:  # a card that does not say is asked for Xids only
        return _XID


def _register_one(handle: Any, bits: int, events: Any) -> None:
    try:
        pynvml.nvmlDeviceRegisterEvents(handle, bits, events)
    except Exception:  # this card has no such events: its kernel lines and readings still tell
        return


def _free(events: Any) -> None:
    try:
        pynvml.nvmlEventSetFree(events)
    except Exception:  # the set is broken, or the session is: there is nothing more to free
        return
