"""Who holds the leases: takes orders, keeps the ledger, and brings what nobody renews to its safe side.

Lives in any process with an event loop. Settings are changed through `Hands`: one conversation per GPU at a time, each
with a deadline; a GPU that hangs keeps no other waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from gpuwarden.actuators.leasefile import LeaseFile
from gpuwarden.actuators.leases import MEANS, Due, Ledger, Wish, due, is_fresh, renewed, unsafe, wishes
from gpuwarden.model.card import CardSettings
from gpuwarden.model.heat import FRESH_SECONDS, HeatOrder, Lease, Refusal, Setting

SUCCESS = 0
_REFUSED = {3: "the card does not support it", 4: "no permission: it takes root", 13: "the driver has no such call"}
_RETRY_SECONDS = 2.0
_BELOW_CELSIUS = 1.0


class HandsError(Exception):
    """A card could not be spoken to, or did not answer in time: what was asked may have been done or not."""


class Conversation(Protocol):
    """One short conversation with one card."""

    card: CardSettings

    async def set(self, setting: Setting, value: float | None) -> int:
        """Set one setting and return NVML's code. Raises: HandsError."""
        ...


class Hands(Protocol):
    """Whoever can speak to cards."""

    def open(self, bdf: str) -> AbstractAsyncContextManager[Conversation]:
        """Begin a conversation. Raises: HandsError on entering."""
        ...


class LeaseHolder:
    """Orders in, settings out. `told` is called after every change."""

    def __init__(
        self, file: LeaseFile, hands: Hands, clock: Callable[[], float], linger_seconds: float, told: Callable[[], None]
    ) -> None:
        self._file = file
        self._hands = hands
        self._clock = clock
        self._linger = linger_seconds
        self._told = told
        self._log = structlog.get_logger()
        self.ledger: Ledger = file.load(clock())
        self._refusals: dict[tuple[str, Setting], Refusal] = {}
        self._orders: dict[str, HeatOrder] = {}
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Return what cards do not let us have."""
        return tuple(self._refusals.values())

    def order(self, order: HeatOrder) -> None:
        """Renew a GPU's leases and have its settings as wanted; returns at once. Too old an order is none."""
        now = self._clock()
        if not is_fresh(order.read.boottime, now):
            return
        self.ledger = renewed(self.ledger, order, now)
        self._orders[order.uuid] = order
        if wishes(self.ledger, order, self._refusals):
            self._begin(order.uuid, lambda: self._obey(order.uuid))

    def tick(self) -> None:
        """Bring to its safe side what nobody renews; returns at once."""
        for each in due(self.ledger, self._clock(), self._linger):
            self._begin(each.lease.uuid, lambda each=each: self._ease(each))  # type: ignore[misc]

    async def give_back(self, *, everything: bool) -> tuple[Lease, ...]:
        """Give back what is unsafe to keep, or all; return what could not be."""
        for lease in self.ledger.leases if everything else unsafe(self.ledger):
            task = self._at_work.get(lease.uuid)
            if task is not None:
                await asyncio.wait({task})
            try:
                await self._return(lease)
            except (HandsError, OSError) as error:
                self._log.warning("lease.not_given_back", uuid=lease.uuid, setting=lease.setting.value, why=str(error))
        return self.ledger.leases if everything else unsafe(self.ledger)

    # ---- one GPU's work

    def _begin(self, uuid: str, work: Callable[[], Any]) -> None:
        """Have something done on a GPU, one thing at a time, and not at once again after a failure."""
        if uuid in self._at_work or self._clock() < self._not_before.get(uuid, 0.0):
            return
        task = asyncio.create_task(self._done(uuid, work), name=f"heat {uuid}")
        self._at_work[uuid] = task
        task.add_done_callback(lambda _: self._at_work.pop(uuid, None))

    async def _done(self, uuid: str, work: Callable[[], Any]) -> None:
        try:
            await work()
        except (HandsError, OSError) as error:
            self._not_before[uuid] = self._clock() + _RETRY_SECONDS
            self._log.warning("lease.not_changed", uuid=uuid, why=str(error))
        self._told()

    async def _obey(self, uuid: str) -> None:
        order = self._orders[uuid]
        async with self._hands.open(order.bdf) as conversation:
            for wish in wishes(self.ledger, order, self._refusals):
                await self._change(order, wish, conversation)

    async def _change(self, order: HeatOrder, wish: Wish, conversation: Conversation) -> None:
        """Change one setting: the value before it is on the disk first. What is no longer ours is left alone."""
        means, card = MEANS[wish.setting], conversation.card
        lease = self.ledger.get(order.uuid, wish.setting)
        if lease is not None and not means.is_ours(card, lease):
            self._drop(lease, "not as we set it")
            if not means.is_back(card, lease):
                self._refuse(order.uuid, wish.setting, "somebody else has changed it")
                return
            lease = None
        if wish.value is None:
            if lease is not None:
                await self._set_back(lease, conversation)
            return
        if lease is None:
            if obstacle := means.obstacle(card):
                self._refuse(order.uuid, wish.setting, obstacle)
                return
            lease = Lease(
                uuid=order.uuid,
                bdf=order.bdf,
                setting=wish.setting,
                value=wish.value,
                before=means.found(card),
                taken=self._clock(),
                renewed=min(order.read.boottime, self._clock()),
                target_celsius=order.target_celsius,
            )
        await self._set(replace(lease, value=means.fit(card, wish.value), asked=wish.value), conversation)

    async def _set(self, lease: Lease, conversation: Conversation) -> None:
        """Set what a lease says. It is written down as it will be, and taken out again where the card refuses."""
        before = self.ledger.get(lease.uuid, lease.setting)
        self._keep(self.ledger.put(lease))
        code = await conversation.set(lease.setting, lease.value)
        if code == SUCCESS:
            self._log.info("lease.set", uuid=lease.uuid, setting=lease.setting.value, value=lease.value)
            return
        self._keep(self.ledger.put(before) if before is not None else self.ledger.without(lease))
        if code in _REFUSED:
            self._refuse(lease.uuid, lease.setting, _REFUSED[code])
        else:
            raise HandsError(f"NVML answered {code} to {lease.setting.value}")

    # ---- giving back

    async def _ease(self, what: Due) -> None:
        """Give a lapsed lease back, or raise it one step where the card is provably cool."""
        if what.give_back:
            await self._return(what.lease)
            return
        lease, means = what.lease, MEANS[what.lease.setting]
        async with self._hands.open(lease.bdf) as conversation:
            current = self.ledger.get(lease.uuid, lease.setting)
            if current is None or self._clock() - current.renewed < FRESH_SECONDS:
                return  # somebody came back
            card = conversation.card
            if not means.is_ours(card, current):
                self._drop(current, "not as we set it")
                return
            current = replace(current, eased=self._clock())
            self.ledger = self.ledger.put(current)
            if card.celsius is None or card.celsius >= current.target_celsius - _BELOW_CELSIUS:
                return
            higher = means.raised(card, current)
            if higher is None:
                await self._set_back(current, conversation)
            else:
                await self._set(replace(current, value=means.fit(card, higher), asked=higher), conversation)

    async def _return(self, lease: Lease) -> None:
        async with self._hands.open(lease.bdf) as conversation:
            current = self.ledger.get(lease.uuid, lease.setting)
            if current is None:
                return
            if MEANS[lease.setting].is_ours(conversation.card, current):
                await self._set_back(current, conversation)
            else:
                self._drop(current, "not as we set it")

    async def _set_back(self, lease: Lease, conversation: Conversation) -> None:
        code = await conversation.set(lease.setting, lease.before if lease.setting is Setting.POWER else None)
        if code != SUCCESS:
            raise HandsError(f"NVML answered {code} when {lease.setting.value} was given back")
        self._drop(lease, "given back")

    def _drop(self, lease: Lease, why: str) -> None:
        self._keep(self.ledger.without(lease))
        self._log.info("lease.ended", uuid=lease.uuid, setting=lease.setting.value, why=why)

    def _refuse(self, uuid: str, setting: Setting, why: str) -> None:
        self._refusals[uuid, setting] = Refusal(uuid=uuid, setting=setting, why=why)
        self._log.warning("lease.refused", uuid=uuid, setting=setting.value, why=why)

    def _keep(self, ledger: Ledger) -> None:
        self._file.keep(ledger)
        self.ledger = ledger
