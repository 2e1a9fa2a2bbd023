"""Cards that are spoken to without a driver: what was set, what refuses, what hangs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from gpuwarden.actuators.holder import Conversation, HandsError
from gpuwarden.model.card import CardSettings
from gpuwarden.model.heat import Setting

CARD = CardSettings(
    celsius=60.0,
    power_watts=450.0,
    power_min_watts=150.0,
    power_max_watts=600.0,
    clock_max_hertz=3e9,
    fans=2,
    fans_manual=False,
    fan_ratio=0.5,
    fan_min_ratio=0.3,
)


class FakeHands:
    """Cards by address. `done` is everything that was set, in order; `refuses` is NVML's answer by setting."""

    def __init__(self, *addresses: str) -> None:
        self.cards = dict.fromkeys(addresses, CARD)
        self.done: list[tuple[str, Setting, float | None]] = []
        self.refuses: dict[Setting, int] = {}
        self.hung: set[str] = set()
        self.opened = 0
        self.before_set: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def open(self, bdf: str) -> AsyncIterator[Conversation]:
        """Begin a conversation."""
        self.opened += 1
        if bdf in self.hung:
            raise HandsError(f"{bdf} did not answer")
        yield _Talk(self, bdf)


class _Talk:
    def __init__(self, hands: FakeHands, bdf: str) -> None:
        self._hands, self._bdf = hands, bdf

    @property
    def card(self) -> CardSettings:
        return self._hands.cards[self._bdf]

    @card.setter
    def card(self, _: CardSettings) -> None:
        raise AssertionError("the card is read")

    async def set(self, setting: Setting, value: float | None) -> int:
        self._hands.before_set()
        if value is not None and setting in self._hands.refuses:
            return self._hands.refuses[setting]
        self._hands.done.append((self._bdf, setting, value))
        match setting:
            case Setting.POWER:
                card = replace(self.card, power_watts=value)
            case Setting.FAN:
                card = replace(self.card, fans_manual=value is not None, fan_ratio=0.5 if value is None else value)
            case Setting.CLOCK:
                card = self.card
        self._hands.cards[self._bdf] = card
        return 0
