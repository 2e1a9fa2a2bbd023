"""What the daemon and the holder of its leases say to each other: a JSON object a line, on a socket of that user."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gpuwarden.model.heat import HeatOrder, Lease, Refusal

MAX_LINE_BYTES = 1 << 16


class Ordered(msgspec.Struct, frozen=True, tag="order"):
    """Have a GPU's settings so, and renew its leases."""

    order: HeatOrder


class GiveBack(msgspec.Struct, frozen=True, tag="give_back"):
    """Give back what is unsafe to keep, or everything; answered with a Held that is `final`."""

    everything: bool


Ask: TypeAlias = Ordered | GiveBack


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What is on loan; told on change and every few seconds. `kept` is what could not be given back."""

    leases: tuple[Lease, ...]
    refusals: tuple[Refusal, ...] = ()
    final: bool = False
    kept: tuple[Lease, ...] = ()


def line(message: object) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"
