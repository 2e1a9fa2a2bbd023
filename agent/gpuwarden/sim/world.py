"""The simulated node: its cards, room, driver, kernel log and faults, advanced in fixed steps. No clock, no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gpuwarden.errors import InputError
from gpuwarden.sim import faults, kernel_lines
from gpuwarden.sim.card import REFERENCE_AMBIENT_CELSIUS, STEP_SECONDS, Card, Identity, Knobs, Load
from gpuwarden.sim.fault import NOT_MIG, Fault, NodeKnobs, Options
from gpuwarden.sim.mig import partition
from gpuwarden.sim.products import Product
from gpuwarden.sim.setters import set_on

_NAMESPACE = uuid.UUID("6d1f5d3e-0d43-4b1e-9d5b-6a7c1f0e9a52")  # any fixed one: uuids follow from seed and slot
_BUSES = (0x01, 0x21, 0x41, 0x61, 0x81, 0xA1, 0xC1, 0xE1, 0x11, 0x31, 0x51, 0x71, 0x91, 0xB1, 0xD1, 0xF1)
_KEPT_EVENTS = 256
WALL_AT_START = 1767225600.0  # 2026-01-01T00:00:00Z, for worlds on virtual time; any fixed day
_FIRST_SEQUENCE = 1000  # the ring of a booted kernel has rows of others before the driver's


class Event(NamedTuple):
    """One NVML event: `sequence` rises by one each."""

    sequence: int
    slot: int
    kind: int
    data: int
    gi: int = NOT_MIG
    ci: int = NOT_MIG


class Active(NamedTuple):
    """A fault that is on. `slot` None: the whole node."""

    fault: str
    slot: int | None
    options: Options


class World:
    """A node of `count` cards of one product.

    `loads` are given by slot, the last one goes on for the rest; without any, the node works at 85 to 100 % with its
    last card idle. `mig` are the profiles that every card is cut into. `printk` is the kernel log's clock in seconds,
    without one the time simulated so far; `wall` is Unix time, without one that after a fixed day.
    """

    def __init__(
        self,
        product: Product,
        count: int,
        *,
        seed: int = 1,
        ambient_celsius: float = REFERENCE_AMBIENT_CELSIUS,
        loads: Sequence[Load] = (),
        mig: Sequence[str] = (),
        printk: Callable[[], float] | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        self.product = product
        self.seconds = 0.0
        self.ambient_celsius = ambient_celsius
        self.driver_version = product.driver
        self.driver_loaded = True
        self.revision = 0  # changes whenever an answer may have changed
        self.boots = 0  # reboots since the start
        self.booted = 0.0  # when the last of them was, in simulated seconds
        self.session = 1  # handles and event sets of an earlier one are dead
        self.node_knobs = NodeKnobs()
        self.records: list[bytes] = []
        self.events: list[Event] = []
        self.active: list[Active] = []
        self._usual_ambient = ambient_celsius
        self._printk = printk if printk is not None else lambda: self.seconds
        self._wall = wall if wall is not None else lambda: WALL_AT_START + self.seconds
        self._carry = 0.0
        self._steps = 0
        self._back_at: float | None = None
        self._event_sequence = 0
        self.cards = [
            Card(product, slot, _identity(product, slot, seed), _load(product, loads, slot, count), seed)
            for slot in range(count)
        ]
        for card in self.cards:
            card.settle(ambient_celsius)
            if mig or product.mig_profiles:
                partition(card, mig or product.mig_profiles)
        self._log_load()

    # ---- what the node says

    @property
    def last_event(self) -> int:
        """Return the sequence number of the last NVML event."""
        return self._event_sequence

    def listed(self) -> list[Card]:
        """Return the cards the driver lists, in NVML index order."""
        if not self.driver_loaded:
            return []
        return [card for card in self.cards if not card.knobs.gone and card.knobs.driver == "nvidia"]

    @property
    def module_version(self) -> str:
        """Return the version of the loaded kernel module, "" while none is."""
        return (self.node_knobs.module_version or self.driver_version) if self.driver_loaded else ""

    def driver_of(self, card: Card) -> str:
        """Return the kernel driver that holds a card, "" for none."""
        return card.knobs.driver if self.driver_loaded or card.knobs.driver != "nvidia" else ""

    def wall(self) -> float:
        """Return the node's Unix time."""
        return self._wall()

    def log(self, text: str, priority: int = kernel_lines.KERN_ERR) -> None:
        """Append a kernel-log record in the form of /dev/kmsg, facility kernel."""
        usec = int(self._printk() * 1e6)
        self.records.append(f"{priority},{_FIRST_SEQUENCE + len(self.records)},{usec},-;{text}\n".encode())

    def event(self, card: Card, kind: int, data: int, *, gi: int = NOT_MIG, ci: int = NOT_MIG) -> None:
        """Deliver an NVML event to whoever is registered; nothing is kept for later listeners."""
        self._event_sequence += 1
        self.events.append(Event(self._event_sequence, card.slot, kind, data, gi, ci))
        del self.events[:-_KEPT_EVENTS]

    def port_aer(self, bdf: str) -> dict[str, int]:
        """Return what the kernel counted of a port's errors, by severity."""
        severities = ("correctable", "nonfatal", "fatal")
        return {name: int(sum(card.port_aer.get((bdf, name), 0.0) for card in self.cards)) for name in severities}

    def events_after(self, sequence: int) -> list[Event]:
        """Return the events after a sequence number, oldest first."""
        return [event for event in self.events if event.sequence > sequence]

    # ---- time

    def advance(self, seconds: float) -> None:
        """Let simulated time pass, in steps; what is left of a step is kept for the next call."""
        self._carry += seconds
        while self._carry >= STEP_SECONDS - 1e-9:
            self._carry -= STEP_SECONDS
            self._step()

    def _step(self) -> None:
        self._steps += 1
        self.revision += 1
        self.seconds = round(self._steps * STEP_SECONDS, 3)
        target = self.node_knobs.ambient_celsius
        wanted = self._usual_ambient if target is None else target
        lag = self.node_knobs.ambient_seconds / 3
        self.ambient_celsius += (wanted - self.ambient_celsius) * min(1.0, STEP_SECONDS / lag)
        for card in self.cards:
            card.step(self.ambient_celsius)
            if card.overheated and not card.knobs.dead:
                self.inject("fallen_off", card.slot)
        if self._back_at is not None and self.seconds >= self._back_at:
            self._load()

    # ---- the driver

    def unload(self, seconds: float, version: str) -> None:
        """Take the driver away; it is back after `seconds`, of `version` where one is given."""
        self.driver_loaded = False
        self.revision += 1
        self.driver_version = version or self.driver_version
        self._back_at = self.seconds + seconds

    def reset(self, slot: int) -> None:
        """Reset one GPU: its counters start over, handles of before are dead, and what a reset cures is gone."""
        self._cured("reset", slot)
        self.cards[slot].reset()
        self.session += 1
        self.revision += 1

    def reboot(self) -> None:
        """Bring the node up in another boot: the driver loads anew, and what a reset or a reboot cures is gone."""
        self.boots += 1
        self.booted = self.seconds
        for cure in ("reset", "reboot"):
            self._cured(cure, None)
        self._load()

    def _cured(self, cure: str, slot: int | None) -> None:
        self.active = [on for on in self.active if faults.FAULTS[on.fault].cure != cure or slot not in (None, on.slot)]
        self._turn_knobs()

    def _load(self) -> None:
        self._back_at = None
        self.driver_loaded = True
        self.session += 1
        for card in self.cards:
            card.reset()
        self._log_load()

    def _log_load(self) -> None:
        self.log(kernel_lines.loading(self.driver_version), kernel_lines.KERN_WARNING)

    # ---- faults

    def inject(self, name: str, gpu: int | None = None, options: Mapping[str, object] | None = None) -> None:
        """Put a fault into the node; one that is on already starts anew with these options.

        Raises: InputError where fault, GPU or options are not what they should be; then nothing has changed.
        """
        fault = faults.find(name)
        checked = faults.checked_options(fault, options or {})
        card = self._target(fault, gpu)
        for each in self.cards if card is None and fault.card is not None else [card]:
            if each is not None:
                if fault.usable is not None and (why := fault.usable(each)):
                    raise InputError(f"{name}: {each.product.name} {why}")
                if fault.card is not None:
                    fault.card(Knobs(), each, checked)  # a bad value is told before anything changes
        if card is None and fault.node is not None:
            fault.node(NodeKnobs(), checked)
        if fault.lasts:
            self._drop(name, gpu)
            self.active.append(Active(name, gpu, checked))
            self._turn_knobs()
        if fault.begin is not None:
            fault.begin(self, card, checked)
            self.revision += 1

    def clear(self, name: str, gpu: int | None = None) -> None:
        """Take a fault out again; without a GPU, wherever it is. Raises: InputError for an unknown fault or GPU."""
        fault = faults.find(name)
        if gpu is not None:
            self._target(fault, gpu)
        self._drop(name, gpu, everywhere=gpu is None)
        self._turn_knobs()

    def set_on(self, slot: int, function: str, numbers: Sequence[int]) -> int:
        """Call a setter of the driver on a card and return its code."""
        self.revision += 1
        return set_on(self.cards[slot], function, numbers)

    def crashed(self, slot: int) -> None:
        """Note that a library call on a card killed its process: a crash fault has one time less to go."""
        for active in self.active:
            if active.fault == "crash" and active.slot in (slot, None):
                left = int(active.options["times"]) - 1
                active.options["times"] = left
                if left <= 0:
                    self.active.remove(active)
                break
        self._turn_knobs()

    def _target(self, fault: Fault, gpu: int | None) -> Card | None:
        if gpu is None:
            if fault.gpu == "one":
                raise InputError(f"{fault.name} needs a GPU: 0 to {len(self.cards) - 1}")
            return None
        if fault.gpu == "none":
            raise InputError(f"{fault.name} is of the whole node: it takes no GPU")
        if not 0 <= gpu < len(self.cards):
            raise InputError(f"no GPU {gpu}: this node has 0 to {len(self.cards) - 1}")
        return self.cards[gpu]

    def _drop(self, name: str, slot: int | None, *, everywhere: bool = False) -> None:
        self.active = [on for on in self.active if on.fault != name or not (everywhere or on.slot == slot)]

    def _turn_knobs(self) -> None:
        """Make every card's and the node's knobs from the faults that are on."""
        self.revision += 1
        self.node_knobs = NodeKnobs()
        for card in self.cards:
            card.knobs = Knobs()
        for on in self.active:
            fault = faults.FAULTS[on.fault]
            if on.slot is None and fault.node is not None:
                fault.node(self.node_knobs, on.options)
            elif fault.card is not None:
                for card in self.cards if on.slot is None else [self.cards[on.slot]]:
                    fault.card(card.knobs, card, on.options)


def _load(product: Product, loads: Sequence[Load], slot: int, count: int) -> Load:
    if loads:
        given = loads[min(slot, len(loads) - 1)]
        return replace(given)
    if count > 2 and slot == count - 1:
        return Load("idle")
    return Load(product.busy, 1.0 - 0.05 * (slot % 4))


def _identity(product: Product, slot: int, seed: int) -> Identity:
    name = uuid.uuid5(_NAMESPACE, f"{seed}/{product.name}/{slot}")
    return Identity(
        uuid=f"GPU-{name}",
        bdf=f"0000:{_BUSES[slot]:02x}:00.0",
        serial=str(1320000000000 + seed * 10000 + 101 * (slot + 1)) if product.serials else "",
        minor=slot,
        pci_slot=str(slot + 1),
        ports=_ports(slot),
    )


def _ports(slot: int) -> tuple[str, ...]:
    """Return the ports above a slot: two slots share a root port and the switch below it, each on a port of its own."""
    pair, place = divmod(slot, 2)
    return f"0000:00:{pair + 1:02x}.0", f"0000:{_BUSES[2 * pair] + 1:02x}:{place:02x}.0"
