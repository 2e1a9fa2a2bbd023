"""Leases: written down before they are taken, renewed by fresh temperatures only, and their safe side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from gpuwarden.actuators.holder import LeaseHolder
from gpuwarden.actuators.leasefile import LeaseFile
from gpuwarden.actuators.leases import Ledger
from gpuwarden.model.heat import HeatOrder, Setting
from gpuwarden.model.observation import Stamp
from support.fakehands import FakeHands

FAN, POWER, CLOCK = Setting.FAN, Setting.POWER, Setting.CLOCK
LINGER = 900.0


class Bench:
    """A holder on fake cards and a clock of its own."""

    def __init__(self, directory: Path, *, cards: int = 2, boot: str = "boot") -> None:
        self.now = 1000.0
        self.hands = FakeHands(*(f"card{n}" for n in range(cards)))
        self.path = directory / "leases.json"
        self._boot = boot
        self.holder = self.anew()

    def anew(self, boot: str | None = None) -> LeaseHolder:
        """Return a holder as a new process makes it, from the file."""
        file = LeaseFile(self.path, boot or self._boot)
        self.holder = LeaseHolder(file, self.hands, lambda: self.now, LINGER, lambda: None)
        return self.holder

    def order(self, number: int = 0, *, age: float = 0.0, **wanted: float) -> HeatOrder:
        return HeatOrder(
            uuid=f"GPU-{number}",
            bdf=f"card{number}",
            wanted={Setting(name): value for name, value in wanted.items()},
            read=Stamp("boot", self.now - age, 0.0),
            target_celsius=70.0,
        )

    async def give(self, *orders: HeatOrder) -> None:
        for order in orders:
            self.holder.order(order)
        await self.settled()

    async def pass_(self, seconds: float, *, renew: Callable[[], list[HeatOrder]] | None = None) -> None:
        """Let time pass second by second, as the holder's process does."""
        for _ in range(round(seconds)):
            self.now += 1.0
            for order in renew() if renew is not None else ():
                self.holder.order(order)
            self.holder.tick()
            await self.settled()

    async def settled(self) -> None:
        while tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith("heat ")]:
            await asyncio.wait(tasks)

    def held(self) -> dict[tuple[str, Setting], float]:
        return {(lease.uuid, lease.setting): lease.value for lease in self.holder.ledger.leases}


async def test_the_old_value_is_on_the_disk_before_a_setting_is_touched(tmp_path: Path) -> None:
    """A process that dies in between leaves a ledger that knows what was found; a refusal leaves none."""
    bench = Bench(tmp_path)
    seen: list[Ledger] = []
    bench.hands.before_set = lambda: seen.append(LeaseFile(bench.path, "boot").load(bench.now))
    await bench.give(bench.order(power=400.0))
    assert [(lease.before, lease.value) for lease in seen[0].leases] == [(450.0, 400.0)]
    bench.hands.refuses[CLOCK] = 999
    await bench.give(bench.order(power=400.0, clock=2e9))
    assert bench.held() == {("GPU-0", POWER): 400.0}
    assert bench.holder.refusals == ()


async def test_an_order_sets_changes_and_gives_back(tmp_path: Path) -> None:
    """One conversation for each change; none while nothing changes; the value found comes back."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(fan=0.7, power=400.0))
    await bench.give(bench.order(fan=0.7, power=400.0))
    assert bench.hands.opened == 1
    await bench.give(bench.order(fan=0.8, power=400.0))
    await bench.give(bench.order())
    assert bench.hands.done == [
        ("card0", FAN, 0.7), ("card0", POWER, 400.0), ("card0", FAN, 0.8), ("card0", FAN, None),
        ("card0", POWER, 450.0),
    ]  # fmt: skip
    assert bench.held() == {}


async def test_values_are_fitted_into_the_cards_limits_and_not_asked_for_again(tmp_path: Path) -> None:
    """Below the minimum is the minimum."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(fan=0.1, power=20.0))
    await bench.give(bench.order(fan=0.1, power=20.0))
    assert bench.hands.done == [("card0", FAN, 0.3), ("card0", POWER, 150.0)]
    assert bench.hands.opened == 1


async def test_fans_go_back_to_the_driver_when_nobody_renews_and_caps_stay(tmp_path: Path) -> None:
    """Fifteen seconds without a fresh temperature, whatever else still comes."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(fan=0.8, power=400.0))
    await bench.pass_(10, renew=lambda: [bench.order(fan=0.8, power=400.0)])
    assert bench.hands.cards["card0"].fans_manual
    last = bench.now

    def stale() -> list[HeatOrder]:
        return [replace(bench.order(fan=1.0, power=400.0), read=Stamp("boot", last, 0.0))]

    await bench.pass_(20, renew=stale)
    assert not bench.hands.cards["card0"].fans_manual
    assert bench.held() == {("GPU-0", POWER): 400.0}


async def test_an_order_too_old_changes_nothing(tmp_path: Path) -> None:
    """A daemon that hung for a while does not begin with what it wanted then."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(age=16.0, power=400.0), bench.order(age=-5.0, power=400.0))
    assert bench.hands.opened == 0


async def test_alone_caps_are_raised_one_card_at_a_time_while_the_card_is_cool(tmp_path: Path) -> None:
    """After the linger, in steps of 5 % with half a minute between; the second card when the first is done."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(0, power=400.0), bench.order(1, power=430.0))
    await bench.pass_(LINGER - 1)
    assert bench.held() == {("GPU-0", POWER): 400.0, ("GPU-1", POWER): 430.0}
    await bench.pass_(1)
    assert bench.held() == {("GPU-0", POWER): 422.5, ("GPU-1", POWER): 430.0}
    await bench.pass_(29)
    assert bench.held()["GPU-0", POWER] == 422.5
    await bench.pass_(61)
    assert bench.hands.cards["card0"].power_watts == 450.0
    assert ("GPU-0", POWER) not in bench.held()
    await bench.pass_(60)
    assert bench.hands.cards["card1"].power_watts == 450.0
    assert bench.held() == {}


async def test_alone_a_cap_stays_where_the_card_is_warm_or_does_not_say(tmp_path: Path) -> None:
    """At its target, or without a temperature: unknown is not cool."""
    for celsius in (70.0, None):
        bench = Bench(tmp_path)
        bench.path.unlink(missing_ok=True)
        bench.anew()
        await bench.give(bench.order(power=400.0))
        bench.hands.cards["card0"] = replace(bench.hands.cards["card0"], celsius=celsius)
        await bench.pass_(LINGER + 300)
        assert bench.held() == {("GPU-0", POWER): 400.0}


async def test_a_clock_lock_is_raised_before_the_cap_of_its_card(tmp_path: Path) -> None:
    """What was used last is given back first."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(power=440.0, clock=2.8e9))
    await bench.pass_(LINGER + 1)
    assert bench.held() == {("GPU-0", POWER): 440.0, ("GPU-0", CLOCK): 2.95e9}
    await bench.pass_(60)
    assert bench.hands.done[-2:] == [("card0", CLOCK, None), ("card0", POWER, 450.0)]


async def test_a_daemon_that_comes_back_ends_the_linger(tmp_path: Path) -> None:
    """Its orders renew what was left alone; nothing is raised any more."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(power=400.0))
    await bench.pass_(LINGER + 1)
    await bench.pass_(120, renew=lambda: [bench.order(power=422.5)])
    assert bench.held() == {("GPU-0", POWER): 422.5}


async def test_what_is_no_longer_ours_is_dropped_and_left_alone(tmp_path: Path) -> None:
    """An admin's later limit survives the end of the lease, and is not fought."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(power=400.0))
    bench.hands.cards["card0"] = replace(bench.hands.cards["card0"], power_watts=300.0)
    await bench.give(bench.order())
    assert bench.held() == {}
    assert bench.hands.cards["card0"].power_watts == 300.0
    await bench.give(bench.order(power=280.0))
    bench.hands.cards["card0"] = replace(bench.hands.cards["card0"], power_watts=310.0)
    await bench.give(bench.order(power=260.0))
    assert bench.hands.cards["card0"].power_watts == 310.0
    assert [refusal.setting for refusal in bench.holder.refusals] == [POWER]


async def test_a_driver_that_was_loaded_anew_is_set_again(tmp_path: Path) -> None:
    """It has forgotten our limit: what is found is what was found before, not somebody else's."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(power=400.0))
    bench.hands.cards["card0"] = replace(bench.hands.cards["card0"], power_watts=450.0)
    await bench.give(bench.order(power=390.0))
    assert bench.hands.cards["card0"].power_watts == 390.0
    assert bench.holder.refusals == ()


async def test_fans_that_somebody_else_controls_are_not_taken(tmp_path: Path) -> None:
    """Said once, and not asked again."""
    bench = Bench(tmp_path)
    bench.hands.cards["card0"] = replace(bench.hands.cards["card0"], fans_manual=True)
    await bench.give(bench.order(fan=0.9))
    await bench.give(bench.order(fan=0.9))
    assert bench.hands.done == []
    assert bench.hands.opened == 1
    assert bench.holder.refusals[0].setting is FAN


async def test_a_refusal_is_told_and_leaves_no_lease(tmp_path: Path) -> None:
    """NOT_SUPPORTED and NO_PERMISSION are the card's last word; anything else is tried again."""
    bench = Bench(tmp_path)
    bench.hands.refuses = {POWER: 3, CLOCK: 4}
    await bench.give(bench.order(power=400.0, clock=2e9))
    assert {refusal.setting for refusal in bench.holder.refusals} == {POWER, CLOCK}
    assert bench.held() == {}


async def test_a_card_that_hangs_keeps_no_other_waiting_and_is_tried_again(tmp_path: Path) -> None:
    """Its fans go back as soon as it answers."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(0, fan=0.8), bench.order(1, fan=0.8))
    bench.hands.hung.add("card0")
    await bench.pass_(18)
    assert bench.held() == {("GPU-0", FAN): 0.8}
    bench.hands.hung.clear()
    await bench.pass_(3)
    assert bench.held() == {}


async def test_a_holder_that_comes_back_has_its_leases_and_one_of_another_boot_has_none(tmp_path: Path) -> None:
    """Settings do not survive a boot, so neither do leases."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(fan=0.8, power=400.0))
    bench.anew()
    assert bench.held() == {("GPU-0", FAN): 0.8, ("GPU-0", POWER): 400.0}
    await bench.pass_(16)
    assert not bench.hands.cards["card0"].fans_manual
    bench.anew("another")
    assert bench.held() == {}
    bench.path.write_bytes(b"{ torn")
    bench.anew()
    assert bench.held() == {}


async def test_restore_gives_back_fans_and_with_everything_the_rest(tmp_path: Path) -> None:
    """What could not be given back is named."""
    bench = Bench(tmp_path)
    await bench.give(bench.order(0, fan=0.8, power=400.0), bench.order(1, power=390.0, clock=2e9))
    assert await bench.holder.give_back(everything=False) == ()
    assert bench.held() == {("GPU-0", POWER): 400.0, ("GPU-1", POWER): 390.0, ("GPU-1", CLOCK): 2e9}
    bench.hands.hung.add("card0")
    kept = await bench.holder.give_back(everything=True)
    assert [(lease.uuid, lease.setting) for lease in kept] == [("GPU-0", POWER)]
    assert bench.hands.cards["card1"].power_watts == 450.0
