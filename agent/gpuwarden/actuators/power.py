"""Power limit: what of it is found, what fits the card, and whether it is still as we set it."""

from __future__ import annotations

from gpuwarden.model.card import CardSettings
from gpuwarden.model.heat import Lease

_SAME_WATTS = 1.0  # drivers round


def found(card: CardSettings) -> float | None:
    """Return the limit that is set now."""
    return card.power_watts


def obstacle(card: CardSettings) -> str:
    """Return why it cannot be set on this card, "" where it can."""
    unknown = card.power_watts is None or card.power_min_watts is None or card.power_max_watts is None
    return "the card has no power limit" if unknown else ""


def fit(card: CardSettings, value: float) -> float:
    """Return a wanted limit within the card's."""
    return min(max(value, card.power_min_watts or value), card.power_max_watts or value)


def is_ours(card: CardSettings, lease: Lease) -> bool:
    """Return whether the limit is the one we set."""
    return card.power_watts is not None and abs(card.power_watts - lease.value) <= _SAME_WATTS


def is_back(card: CardSettings, lease: Lease) -> bool:
    """Return whether the limit is the one we found: a driver that was loaded anew has forgotten ours."""
    return card.power_watts is not None and card.power_watts == lease.before


def raised(card: CardSettings, lease: Lease) -> float | None:
    """Return the limit a step up, None where that is what we found."""
    before = lease.before or card.power_max_watts or lease.value
    higher = lease.value + max(1.0, 0.05 * before)
    return None if higher >= before else higher
