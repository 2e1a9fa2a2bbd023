"""The one way into the engine: bounded for readings, loss-free for events.

A reading not yet taken is replaced by the newer one of the same GPU and lane, in place, and the loss is counted.
States that repeat (a blocked GPU, reader totals, ticks) keep their newest copy. Everything else is an event: kept,
in order, always; repeated kernel lines were folded into counts where they were read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from gpuwarden.model.observation import (
    AnyObservation,
    GpuAsleep,
    GpuBlocked,
    GpuFailed,
    GpuProcesses,
    GpuSampled,
    InboxDropped,
    JournalChanged,
    KernelLogChanged,
    MigSeen,
    OwnersSeen,
    PausedGpu,
    PciScanned,
    PodsSeen,
    Tick,
)


def _slot(observation: AnyObservation) -> Hashable | None:
    """Return the key under which a newer observation replaces this one, or None for an event."""
    match observation:
        case GpuSampled(index=index, bdf=bdf, lane=lane):
            return (GpuSampled, index, bdf, lane)
        case MigSeen(index=index, bdf=bdf):
            return (MigSeen, index, bdf)
        case GpuBlocked(index=index, bdf=bdf) | GpuFailed(index=index, bdf=bdf) | PausedGpu(index=index, bdf=bdf):
            return (type(observation), index, bdf)
        case GpuProcesses(index=index, bdf=bdf) | OwnersSeen(index=index, bdf=bdf) | GpuAsleep(index=index, bdf=bdf):
            return (type(observation), index, bdf)
        case Tick() | PodsSeen() | PciScanned() | KernelLogChanged() | JournalChanged() | InboxDropped():
            return type(observation)
        case _:
            return None


class Inbox:
    """A queue of observations for one consumer in the same event loop."""

    def __init__(self) -> None:
        self._entries: dict[int, AnyObservation] = {}
        self._slots: dict[Hashable, int] = {}
        self._number = 0
        self._filled = asyncio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, observation: AnyObservation) -> None:
        """Add one observation; never blocks. A reading or state that was waiting under the same key gives way.

        The newer one goes to the end of the queue: nothing overtakes an event that came before it.
        """
        slot = _slot(observation)
        if slot is not None:
            stale = self._slots.pop(slot, None)
            if stale is not None:
                replaced = self._entries.pop(stale)
                self.dropped += isinstance(replaced, GpuSampled | MigSeen)
            self._slots[slot] = self._number
        self._entries[self._number] = observation
        self._number += 1
        self._filled.set()

    async def get(self) -> AnyObservation:
        """Take the oldest observation, waiting for one if there is none."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        number = next(iter(self._entries))
        observation = self._entries.pop(number)
        slot = _slot(observation)
        if slot is not None and self._slots.get(slot) == number:
            del self._slots[slot]
        return observation
