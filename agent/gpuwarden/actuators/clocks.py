"""Clock lock: NVML has no call that says whether clocks are locked, so a lock of ours counts as ours."""

from __future__ import annotations

from gpuwarden.model.card import CardSettings
from gpuwarden.model.heat import Lease


def found(_: CardSettings) -> None:
    """Return None: an unlocked clock is what is given back."""
    return


def obstacle(card: CardSettings) -> str:
    """Return why it cannot be set on this card, "" where it can."""
    return "" if card.clock_max_hertz else "the card does not say its highest clock"


def fit(card: CardSettings, value: float) -> float:
    """Return a wanted clock within the card's."""
    return min(value, card.clock_max_hertz or value)


def is_ours(_: CardSettings, __: Lease) -> bool:
    """Return True: there is nothing to read."""
    return True


def is_back(_: CardSettings, __: Lease) -> bool:
    """Return False: there is nothing to read."""
    return False


def raised(card: CardSettings, lease: Lease) -> float | None:
    """Return the lock a step up, None where it is no lock any more."""
    highest = card.clock_max_hertz
    higher = lease.value + 0.05 * (highest or lease.value)
    return None if highest is None or higher >= highest else higher
