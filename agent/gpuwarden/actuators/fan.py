"""Fans: taken only where the driver has them, given back to the driver, never set below where they were."""

from __future__ import annotations

from gpuwarden.model.card import CardSettings
from gpuwarden.model.heat import Lease

_SAME_RATIO = 0.03


def found(card: CardSettings) -> float | None:
    """Return the speed under the driver's policy, at which we found the fans."""
    return card.fan_ratio


def obstacle(card: CardSettings) -> str:
    """Return why they cannot be set on this card, "" where they can."""
    if not card.fans:
        return "the card has no fans of its own"
    if card.fans_manual is None:
        return "the driver does not say who controls the fans"
    return "somebody else has set the fans to a speed" if card.fans_manual else ""


def fit(card: CardSettings, value: float) -> float:
    """Return a wanted speed within the card's limits."""
    return min(max(value, card.fan_min_ratio), card.fan_max_ratio)


def is_ours(card: CardSettings, lease: Lease) -> bool:
    """Return whether the fans stand at the speed we set."""
    return bool(card.fans_manual) and card.fan_ratio is not None and abs(card.fan_ratio - lease.value) <= _SAME_RATIO


def is_back(card: CardSettings, _: Lease) -> bool:
    """Return whether the driver has its fans back."""
    return card.fans_manual is False


def raised(_: CardSettings, __: Lease) -> None:
    """Return None: without anybody who reads its temperature a fan goes back to the driver at once."""
    return
