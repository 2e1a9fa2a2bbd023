"""The last minutes of fast readings, in memory: what a chart, an evidence bundle and `capture` look back on.

A ring per GPU: one array of times and one per reading, all of the same length. 900 samples of 30 readings of 16 GPUs
take 3.5 MiB and stay there.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping

from gpuwarden.model.gpu import Missing, Scalar, Value

RING_SECONDS = 900
_MAX_GPUS = 64
_MAX_READINGS = 64
_ABSENT = math.nan  # inside the arrays only: it never leaves this module

Point = tuple[float, float | None]
"""Wall time and value; None where the reading was absent."""


class _Ring:
    """The samples of one GPU."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times = array("d", [0.0]) * capacity
        self._columns: dict[str, array[float]] = {}
        self._next = 0
        self._count = 0

    def add(self, wall: float, values: Iterator[tuple[str, Scalar]]) -> None:
        slot = self._next
        self._times[slot] = wall
        for column in self._columns.values():
            column[slot] = _ABSENT
        for name, value in values:
            if name not in self._columns:
                if len(self._columns) >= _MAX_READINGS:
                    continue
                self._columns[name] = array("d", [_ABSENT]) * self._capacity
            self._columns[name][slot] = _ABSENT if isinstance(value, Missing) else float(value)
        self._next = (slot + 1) % self._capacity
        self._count = min(self._count + 1, self._capacity)

    def points(self, name: str, since: float) -> list[Point]:
        column = self._columns.get(name)
        if column is None:
            return []
        first = self._next - self._count
        slots = (slot % self._capacity for slot in range(first, self._next))
        return [
            (self._times[slot], None if math.isnan(column[slot]) else column[slot])
            for slot in slots
            if self._times[slot] >= since
        ]

    @property
    def readings(self) -> tuple[str, ...]:
        return tuple(self._columns)


class History:
    """15 minutes of samples for each GPU, by uuid. Bounded: the GPU not heard of for longest makes room."""

    def __init__(self, capacity: int = RING_SECONDS) -> None:
        self._capacity = capacity
        self._rings: dict[str, _Ring] = {}

    def record(self, uuid: str, wall: float, values: Mapping[str, Value]) -> None:
        """Take one sample of the fast lane. Elements of a vector become `name.0`, `name.1`, ..."""
        ring = self._rings.pop(uuid, None)
        if ring is None:
            if len(self._rings) >= _MAX_GPUS:
                del self._rings[next(iter(self._rings))]
            ring = _Ring(self._capacity)
        self._rings[uuid] = ring  # to the end: the order is that of the last sample
        ring.add(wall, _flat(values))

    def points(self, uuid: str, reading: str, seconds: float, now: float) -> list[Point]:
        """Return (wall time, value or None) of the last `seconds` before `now` (wall), oldest first."""
        ring = self._rings.get(uuid)
        return ring.points(reading, now - seconds) if ring else []

    def readings(self, uuid: str) -> tuple[str, ...]:
        """Return the names under which this GPU has samples."""
        ring = self._rings.get(uuid)
        return ring.readings if ring else ()

    def forget(self, uuid: str) -> None:
        """Drop a GPU's samples."""
        self._rings.pop(uuid, None)


def _flat(values: Mapping[str, Value]) -> Iterator[tuple[str, Scalar]]:
    for name, value in values.items():
        if isinstance(value, tuple):
            yield from ((f"{name}.{i}", item) for i, item in enumerate(value))
        else:
            yield name, value
