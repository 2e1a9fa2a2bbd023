"""What of one card can be set, as it stands now: what a setter of ours reads before it sets anything."""

from __future__ import annotations

import msgspec

from gpuwarden.model.heat import Setting


class CardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings and their limits; None: the card does not say. `fans_manual`: somebody set the fans to a speed."""

    celsius: float | None = None
    power_watts: float | None = None
    power_min_watts: float | None = None
    power_max_watts: float | None = None
    clock_max_hertz: float | None = None
    fans: int = 0
    fans_manual: bool | None = None
    fan_ratio: float | None = None
    fan_min_ratio: float = 0.0
    fan_max_ratio: float = 1.0


class SetAsk(msgspec.Struct, frozen=True):
    """Set one setting. None: the driver's own way (an unlocked clock, automatic fans)."""

    setting: Setting
    value: float | None
