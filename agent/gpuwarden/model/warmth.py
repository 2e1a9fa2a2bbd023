"""How one GPU's temperature moves against its power, as three means."""

from __future__ import annotations

import msgspec

from gpuwarden.model.speed import Mean

QUICK_SECONDS, SLOW_SECONDS = 10.0, 40.0
POWER_SECONDS = 60.0


class Warmth(msgspec.Struct, frozen=True, kw_only=True):
    """Means over about `QUICK_SECONDS`, `SLOW_SECONDS` and `POWER_SECONDS`; None before the first reading."""

    quick_celsius: Mean | None = None
    slow_celsius: Mean | None = None
    power_watts: Mean | None = None

    @property
    def rise(self) -> float | None:
        """Return the rise in Celsius per minute: a mean lags behind a steady rise by its time constant."""
        if self.quick_celsius is None or self.slow_celsius is None:
            return None
        return 60.0 * (self.quick_celsius.value - self.slow_celsius.value) / (SLOW_SECONDS - QUICK_SECONDS)
