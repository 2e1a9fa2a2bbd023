"""What a worker's silence means: pure bookkeeping over its messages and the time."""

from __future__ import annotations

import msgspec

from gpuwarden.nvml.wire import Beat, Busy, Fault, FromWorker, Gpu, InitFailed, Opened

SESSION_INDEX = -1
_SLACK_SECONDS = 2.0
_ALL_BLOCKED_SECONDS = 10.0  # all threads late for this much longer than the deadline before the worker is given up
_FAULTY_SECONDS = 600.0  # a GPU that a reset brought back is seen by a new session only: try one now and then


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Why a worker's service ends. `reason` is a label of the restart counter."""

    reason: str
    detail: str = ""
    since: float | None = None  # boottime
    planned: bool = False
    pause_seconds: float = 0.0


class SilenceWatch:
    """Follows one worker: which of its threads are late, and whether it is of any use still. Times are boottime."""

    def __init__(self, deadline_seconds: float, now: float) -> None:
        self._deadline = deadline_seconds
        self._heard = now
        self._beat: Beat | None = None
        self._gpus = 0
        self._faulty: dict[int, float] = {}
        self.failed_init = False

    def heard(self, message: FromWorker, now: float) -> None:
        """Take note of one message."""
        self._heard = now
        match message:
            case Beat():
                self._beat = message
            case Opened(count=count):
                self._gpus, self.failed_init = count, False
            case InitFailed():
                self.failed_init = True
            case Fault(index=index):
                self._faulty.setdefault(index, now)
            case Gpu(index=index):
                self._faulty.pop(index, None)

    def excuse(self, now: float) -> None:
        """Take a silence as none: this machine slept, or we did not listen."""
        self._heard = now
        self._beat = None

    def late(self, now: float) -> list[Busy]:
        """Return the GPU threads that sit in one call past the deadline."""
        return [busy for busy in self._busy() if busy.index != SESSION_INDEX and now - busy.since > self._deadline]

    def verdict(self, now: float) -> Ending | None:
        """Return why the worker is to be replaced, None while it is of use."""
        if now - self._heard > self._deadline + _SLACK_SECONDS:
            return Ending(reason="blocked", detail="no word from the worker", since=self._heard)
        for busy in self._busy():
            if busy.index == SESSION_INDEX and now - busy.since > self._deadline:
                return Ending(reason="blocked", detail=f"{busy.call} does not return", since=busy.since)
        if self._faulty and now - max(self._faulty.values()) > _FAULTY_SECONDS:
            return Ending(reason="topology", detail="GPUs out of reach for ten minutes", planned=True)
        late = self.late(now)
        if self._gpus and len(late) >= self._gpus:
            youngest = max(busy.since for busy in late)
            if now - youngest > self._deadline + _ALL_BLOCKED_SECONDS:
                call = min(late, key=lambda busy: busy.index).call
                return Ending(reason="blocked", detail=f"all GPUs: {call} does not return", since=youngest)
        return None

    def _busy(self) -> list[Busy]:
        return [] if self._beat is None else [busy for busy in self._beat.threads if busy.call]
