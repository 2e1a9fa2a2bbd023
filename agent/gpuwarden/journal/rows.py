"""What changed in the node since the journal last heard of it, as rows; and what rows say after a restart.

Finding the changes is cheap enough for every step of the engine (records are compared by identity); turning them into
text is left to the writer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gpuwarden.model.case import Remedy
from gpuwarden.model.finding import Event, Incident
from gpuwarden.model.observation import (
    BaselineRow,
    CounterRow,
    InventoryRow,
    KmsgCursor,
    LatchRow,
    Restored,
    Stamp,
)
from gpuwarden.model.rows import baseline_rows, counter_rows, inventory_row
from gpuwarden.model.snapshot import GpuState, NodeState

MOST_EVENTS = 10_000
"""Events that wait for the disk; beyond that the oldest are lost, and counted."""
_LAST_SEEN_STEP_SECONDS = 300.0  # how far `last_seen` must have moved to be worth a row

CounterKey = tuple[str, str, str, str]  # family, uuid, name, label


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal knew when it was opened. Counters are of the present boot, the rest of any.

    `earlier_boot`: it holds history of another boot than this one, so it does outlive a reboot.
    """

    inventory: tuple[InventoryRow, ...] = ()
    latches: tuple[LatchRow, ...] = ()
    counters: tuple[CounterRow, ...] = ()
    baselines: tuple[BaselineRow, ...] = ()
    cursor: KmsgCursor | None = None
    remedy: Remedy = Remedy()
    earlier_boot: bool = False

    def restored(self, at: Stamp) -> Restored:
        """Return this as the engine's first observation."""
        return Restored(
            at=at,
            inventory=self.inventory,
            latches=self.latches,
            counters=self.counters,
            baselines=self.baselines,
            remedy=self.remedy,
        )


class Changes:
    """What waits to be written. Newer rows take the place of older ones, so its size is bounded by the host's."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.inventory: dict[str, InventoryRow | None] = {}  # None: forgotten
        self.counters: dict[CounterKey, CounterRow] = {}
        self.baselines: dict[tuple[str, str], BaselineRow] = {}
        self.incidents: Mapping[tuple[str, str], Incident] | None = None  # all that are open
        self.cursor: KmsgCursor | None = None
        self.remedy: Remedy | None = None
        self.when_written: list[Callable[[], None]] = []
        self.taken: list[int] = []  # requests
        self.lost = 0

    def __bool__(self) -> bool:
        return bool(
            self.events
            or self.inventory
            or self.counters
            or self.baselines
            or self.incidents is not None
            or self.cursor is not None
            or self.remedy is not None
            or self.when_written
            or self.taken
        )

    def add_events(self, events: Iterable[Event]) -> None:
        """Add history; where there is too much of it the oldest goes."""
        for event in events:
            self.lost += len(self.events) == MOST_EVENTS
            self.events.append(event)

    def drop_events(self) -> None:
        """Give the history up, and count it as lost."""
        self.lost += len(self.events)
        self.events.clear()

    def then(self, later: Changes) -> Changes:
        """Return these changes followed by later ones: for what could not be written yet. Takes over both."""
        gone = {uuid for uuid, row in later.inventory.items() if row is None}
        self.lost += later.lost
        self.add_events(later.events)
        self.counters = {key: row for key, row in self.counters.items() if row.uuid not in gone}
        self.baselines = {key: row for key, row in self.baselines.items() if row.uuid not in gone}
        self.inventory |= later.inventory
        self.counters |= later.counters
        self.baselines |= later.baselines
        self.incidents = later.incidents if later.incidents is not None else self.incidents
        self.cursor = later.cursor or self.cursor
        self.remedy = later.remedy or self.remedy
        self.when_written += later.when_written
        self.taken += later.taken
        return self


class Differ:
    """Remembers what the journal was last told of the node, and collects what is new since."""

    def __init__(self) -> None:
        self._node: NodeState | None = None
        self._gpus: dict[str, GpuState] = {}
        self._kept: NodeState | None = None  # as it was when its baselines were last told

    def collect(self, node: NodeState, into: Changes, before: NodeState | None = None) -> None:
        """Add to `into` every inventory row, open incident and counter that changed since the last call.

        At the first call it is what changed since `before`.
        """
        known, self._node = self._node or before, node
        self._inventory(node, into)
        if known is None or node.incidents is not known.incidents:
            into.incidents = node.incidents
        if known is None or node.remedy is not known.remedy:
            into.remedy = node.remedy
        for row in counter_rows(node, known):
            into.counters[row.family, row.uuid, row.name, row.label] = row
        if self._kept is None or node.kept_at != self._kept.kept_at:
            for baseline in baseline_rows(node, self._kept):
                into.baselines[baseline.uuid, baseline.figure] = baseline
            self._kept = node

    def everything(self) -> Changes:
        """Return the whole of what the journal was told, for a file that starts empty."""
        whole, node = Changes(), self._node
        if node is not None:
            self._node, self._gpus, self._kept = None, {}, None
            self.collect(node, whole)
        return whole

    def _inventory(self, node: NodeState, into: Changes) -> None:
        for uuid in self._gpus.keys() - node.gpus.keys():
            del self._gpus[uuid]
            into.inventory[uuid] = None
            into.counters = {key: row for key, row in into.counters.items() if row.uuid != uuid}
            into.baselines = {key: row for key, row in into.baselines.items() if row.uuid != uuid}
        for uuid, gpu in node.gpus.items():
            if not _same(self._gpus.get(uuid), gpu):
                self._gpus[uuid] = gpu
                into.inventory[uuid] = inventory_row(gpu, node.now.boot_id)


def _same(told: GpuState | None, gpu: GpuState) -> bool:
    return told is not None and (
        told.index == gpu.index
        and told.identity == gpu.identity
        and told.first_seen == gpu.first_seen
        and abs(gpu.last_seen - told.last_seen) < _LAST_SEEN_STEP_SECONDS
    )
