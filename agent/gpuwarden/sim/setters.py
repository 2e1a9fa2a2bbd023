"""What the simulated driver lets be set of a card: power limit, clock lock and fans, within the card's own limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpuwarden.sim.card import Card

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED = 0, 2, 3  # source: nvml.h, nvmlReturn_t
FAN_MIN_PERCENT, FAN_MAX_PERCENT = 30, 100  # what GeForce cards report
_S = "nvmlDeviceSet"


def set_on(card: Card, function: str, numbers: Sequence[int]) -> int:
    """Do what a setter does to a card and return its code; with any but SUCCESS nothing has changed."""
    return SETTERS[function](card, *numbers)


def _power(card: Card, milliwatts: int) -> int:
    limits = card.product.power_limit_watts
    if not limits.min <= milliwatts / 1000 <= limits.max:
        return INVALID_ARGUMENT
    card.power_limit_watts = milliwatts / 1000
    return SUCCESS


def _lock(card: Card, low_megahertz: int, high_megahertz: int) -> int:
    if low_megahertz > high_megahertz:
        return INVALID_ARGUMENT
    card.locked_clock_hertz = high_megahertz * 1e6
    return SUCCESS


def _unlock(card: Card) -> int:
    card.locked_clock_hertz = None
    return SUCCESS


def _fan(card: Card, fan: int, percent: int) -> int:
    if not card.product.fans:
        return NOT_SUPPORTED
    if not 0 <= fan < card.product.fans or not FAN_MIN_PERCENT <= percent <= FAN_MAX_PERCENT:
        return INVALID_ARGUMENT
    card.manual_fans[fan] = percent / 100
    return SUCCESS


def _automatic(card: Card, fan: int) -> int:
    if not card.product.fans:
        return NOT_SUPPORTED
    card.manual_fans.pop(fan, None)
    return SUCCESS


SETTERS: dict[str, Callable[..., int]] = {
    _S + "PowerManagementLimit": _power,
    _S + "PowerManagementLimit_v2": _power,
    _S + "GpuLockedClocks": _lock,
    "nvmlDeviceResetGpuLockedClocks": _unlock,
    _S + "FanSpeed_v2": _fan,
    _S + "DefaultFanSpeed_v2": _automatic,
}
