"""Heat control as records: what is wanted of a card's fan, power limit and clock, and what is on loan meanwhile.

A changed setting is a lease: the value before it is written down first, it is renewed with each fresh temperature of
its GPU, and where nobody renews it, it goes to its safe side.
"""

from __future__ import annotations

import enum

import msgspec

from gpuwarden.model.stamp import Stamp


class Setting(enum.Enum):
    """What of a card can be changed against heat. Values are labels of `gpuwarden_settings_leased{setting}`."""

    FAN = "fan"  # ratio of full speed, at least; every fan of the card
    POWER = "power"  # limit in watts
    CLOCK = "clock"  # highest graphics clock in hertz


SETTINGS: tuple[Setting, ...] = tuple(Setting)
"""In the order in which they are used against heat: what costs no work comes first."""

FRESH_SECONDS = 15.0
"""A lease that was not renewed for this long goes to its safe side."""


class HeatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the heat governor is configured. `target_celsius` None: the card's own."""

    governor: bool = False
    target_celsius: float | None = None
    linger_seconds: float = 900.0


class Heat(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted of one card, and what that was decided from. None in a setting: as the card has it by itself."""

    fan_ratio: float | None = None
    power_watts: float | None = None
    clock_hertz: float | None = None
    power_from_watts: float = 0.0  # the limit before the first cap: it is never raised above that
    automatic_ratio: float = 0.0  # the last fan speed seen under the driver's own policy
    quick_celsius: float | None = None  # smoothed over a few seconds
    slow_celsius: float = 0.0  # smoothed over half a minute: what lies between the two is the trend
    draw_watts: float = 0.0  # smoothed like quick_celsius
    slow_watts: float = 0.0  # smoothed like slow_celsius
    sampled: float = 0.0  # boottime of the last temperature
    stepped: float = 0.0  # boottime of the last step, either way
    eased: bool = False  # the last step was one back
    hesitation: int = 0  # how often such a step had to be taken back: each doubles the wait before the next
    still_celsius: float | None = None  # the last reading, how long it has stood, and at what power
    still_since: float = 0.0
    still_watts: float = 0.0
    refused: tuple[Setting, ...] = ()  # by this card: never asked of it again
    told: float | None = None  # boottime of the last word about it

    def value(self, setting: Setting) -> float | None:
        """Return what is wanted of a setting."""
        match setting:
            case Setting.FAN:
                return self.fan_ratio
            case Setting.POWER:
                return self.power_watts
            case Setting.CLOCK:
                return self.clock_hertz

    @property
    def wanted(self) -> dict[Setting, float]:
        """Return what is wanted other than the card's own, in the order of SETTINGS."""
        values = {setting: self.value(setting) for setting in SETTINGS}
        return {setting: value for setting, value in values.items() if value is not None}


class HeatOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is wanted of one GPU now: a setting that is not in it is given back.

    `read` is when its temperature was last read; it renews the leases, an order alone does not. `target_celsius` is
    below what a cap may be raised by whoever is left alone with it.
    """

    uuid: str
    bdf: str
    wanted: dict[Setting, float]
    read: Stamp
    target_celsius: float


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One setting that is not as we found it. `before` is the value we found; None: the driver's own way.

    All times are boottime. `eased` is when it was last raised by whoever is left alone with it.
    """

    uuid: str
    bdf: str
    setting: Setting
    value: float
    asked: float = 0.0  # what was ordered, before it was fitted into the card's limits
    before: float | None
    taken: float
    renewed: float
    target_celsius: float
    eased: float = 0.0


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A card does not let us have a setting."""

    uuid: str
    setting: Setting
    why: str
