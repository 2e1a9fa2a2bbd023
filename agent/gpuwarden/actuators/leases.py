"""Leases as pure transitions: what an order asks for, what lapses, and what is to be done about it.

A lease that nobody renewed for 15 s goes to its safe side: fans back to the driver at once; a power limit or clock lock
stays, and after a linger is raised one card at a time, in steps, while a temperature read by ourselves is below target.
"""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from gpuwarden.actuators import clocks, fan, power
from gpuwarden.model.heat import FRESH_SECONDS, SETTINGS, HeatOrder, Lease, Setting

MEANS: dict[Setting, ModuleType] = {Setting.FAN: fan, Setting.POWER: power, Setting.CLOCK: clocks}
RAISE_SECONDS = 30.0
"""Between two steps of a setting that is raised by itself."""

Key: TypeAlias = tuple[str, Setting]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """Every lease, in the order they were taken."""

    leases: tuple[Lease, ...] = ()

    def get(self, uuid: str, setting: Setting) -> Lease | None:
        """Return one lease."""
        return next((each for each in self.leases if (each.uuid, each.setting) == (uuid, setting)), None)

    def of(self, uuid: str) -> tuple[Lease, ...]:
        """Return the leases of one GPU."""
        return tuple(each for each in self.leases if each.uuid == uuid)

    def put(self, lease: Lease) -> Ledger:
        """Return the ledger with a lease new or changed."""
        if self.get(lease.uuid, lease.setting) is None:
            return Ledger(leases=(*self.leases, lease))
        same = (lease.uuid, lease.setting)
        return Ledger(leases=tuple(lease if (each.uuid, each.setting) == same else each for each in self.leases))

    def without(self, lease: Lease) -> Ledger:
        """Return the ledger without a lease."""
        gone = (lease.uuid, lease.setting)
        return Ledger(leases=tuple(each for each in self.leases if (each.uuid, each.setting) != gone))


class Wish(NamedTuple):
    """A setting to be changed. `value` None: give it back."""

    setting: Setting
    value: float | None


class Due(NamedTuple):
    """What is due of one lease that nobody renews: to be given back, or to be raised a step."""

    lease: Lease
    give_back: bool


def is_fresh(read: float, now: float) -> bool:
    """Return whether a temperature read then still stands for something."""
    return 0 <= now - read < FRESH_SECONDS


def renewed(ledger: Ledger, order: HeatOrder, now: float) -> Ledger:
    """Return the ledger with a GPU's leases renewed by a temperature as old as its order says."""
    for lease in ledger.of(order.uuid):
        read = min(order.read.boottime, now)
        later = replace(lease, renewed=max(lease.renewed, read), target_celsius=order.target_celsius)
        ledger = ledger.put(later)
    return ledger


def wishes(ledger: Ledger, order: HeatOrder, refused: Collection[Key] = ()) -> tuple[Wish, ...]:
    """Return what an order changes: what is wanted otherwise, and what is on loan and wanted no longer."""
    found = []
    for setting in SETTINGS:
        lease, value = ledger.get(order.uuid, setting), order.wanted.get(setting)
        if value is None and lease is not None:
            found.append(Wish(setting, None))
        elif (order.uuid, setting) in refused:
            continue
        elif value is not None and (lease is None or lease.asked != value):
            found.append(Wish(setting, value))
    return tuple(found)


def due(ledger: Ledger, now: float, linger_seconds: float) -> tuple[Due, ...]:
    """Return what lapsed leases call for now: every fan, and of the rest one card's setting that was used last."""
    found = [
        Due(lease, give_back=True)
        for lease in ledger.leases
        if lease.setting is Setting.FAN and not is_fresh(lease.renewed, now)
    ]
    alone = [
        lease
        for lease in ledger.leases
        if lease.setting is not Setting.FAN and now - lease.renewed >= max(linger_seconds, FRESH_SECONDS)
    ]
    if alone:
        card = [lease for lease in alone if lease.uuid == alone[0].uuid]
        last = max(card, key=lambda lease: SETTINGS.index(lease.setting))
        if now - max(lease.eased for lease in alone) >= RAISE_SECONDS:
            found.append(Due(last, give_back=False))
    return tuple(found)


def unsafe(ledger: Ledger) -> tuple[Lease, ...]:
    """Return the leases that nobody may be left alone with: a fan at a fixed speed."""
    return tuple(lease for lease in ledger.leases if lease.setting is Setting.FAN)
