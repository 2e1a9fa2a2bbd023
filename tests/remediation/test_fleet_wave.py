"""Many hosts and one scheduler: a wave of faults, clocks that differ by a minute, answers that come late or not at all.

The suite has 12 hosts; `make fleet` has 200 (`GPUWARDEN_FLEET_HOSTS`) and prints figures.
"""

from __future__ import annotations

import os
import random

from msgspec.structs import replace

from gpuwarden.model.case import ActionKind, CaseState, Intent, Outcome, Surroundings
from support.ward import Ward, enforcing

HOSTS = int(os.environ.get("GPUWARDEN_FLEET_HOSTS", "12"))
MOST_OUT, MOST_HELD = max(2, HOSTS // 20), 5
SKEW_SECONDS = 60.0
TICK_SECONDS = 20.0


class Scheduler:
    """The slots of a fleet: whoever is told that he has one has it; who is told nothing may have it too."""

    def __init__(self) -> None:
        self.slots: set[int] = set()
        self.held: set[int] = set()
        self.most_out = 0

    def take(self, host: int) -> bool:
        if host not in self.slots and len(self.slots) >= MOST_OUT:
            return False
        self.slots.add(host)
        return True


class Host(Ward):
    """A ward that takes its slots from a scheduler it shares, and sees how many hosts are held for people."""

    number: int
    scheduler: Scheduler

    def surroundings(self) -> Surroundings:
        return replace(super().surroundings(), held_hosts=len(self.scheduler.held))

    def _effect(self, intent: Intent) -> Outcome | None:
        if intent.action is ActionKind.TAKE_SLOT and not self.scheduler.take(self.number):
            return Outcome.REFUSED
        if intent.action is ActionKind.RETURN_SLOT:
            self.scheduler.slots.discard(self.number)
        return super()._effect(intent)


def _host(number: int, scheduler: Scheduler, chance: random.Random) -> Host:
    def answer(_: Intent) -> tuple[Outcome | None, bool]:
        late = chance.random()
        if late < 0.10:
            return Outcome.EFFECT_UNKNOWN, True  # it landed, after everybody had stopped waiting
        if late < 0.15:
            return Outcome.EFFECT_UNKNOWN, False
        return (None, True) if late < 0.18 else (Outcome.DONE, True)

    ward = Host(remedy=enforcing(fleet_max_hosts=MOST_OUT), tick_seconds=TICK_SECONDS, answers=answer)
    ward.number, ward.scheduler = number, scheduler
    ward.wall += chance.uniform(-SKEW_SECONDS, SKEW_SECONDS)
    return ward


def _state(host: Host) -> CaseState | None:
    states = [case.state for case in host.node.remedy.cases.values()]
    return CaseState.HELD if CaseState.HELD in states else states[0] if states else None


def test_a_wave_of_faults_takes_out_no_more_hosts_than_may_be_and_all_are_treated() -> None:
    """At no moment are more hosts out than there are slots; in the end each is well, or held for a person."""
    chance, scheduler = random.Random(4), Scheduler()
    hosts = [_host(number, scheduler, chance) for number in range(HOSTS)]
    for host in hosts:
        host.run(40)
    ill = chance.sample(hosts, HOSTS // 2)
    for host in ill:
        xid, cure = chance.choice(((95, ActionKind.RESET), (48, ActionKind.RESET), (79, ActionKind.REBOOT)))
        host.fault(chance.randrange(host.cards), xid, cured_by=cure)
    ticks = 0
    while any(_state(host) not in (None, CaseState.HELD) for host in hosts):
        ticks += 1
        assert ticks * TICK_SECONDS < 86_400.0, "a host is not treated"
        for host in hosts:
            host.run(TICK_SECONDS)
            scheduler.held = {each.number for each in hosts if each.mark and _state(each) is CaseState.HELD}
            out = {each.number for each in hosts if each.mark} - scheduler.held
            assert out <= scheduler.slots
            assert len(out) <= MOST_OUT
            scheduler.most_out = max(scheduler.most_out, len(out))
    held = [host for host in hosts if _state(host) is CaseState.HELD]
    assert len(held) <= MOST_HELD + MOST_OUT
    assert scheduler.slots == set()
    assert [host.number for host in hosts if host.errors] == []
    assert all(card.fault is None for host in hosts if host not in held for card in host.outside)
    print(
        f"{HOSTS} hosts, {len(ill)} ill, {MOST_OUT} slots: at most {scheduler.most_out} out, {len(held)} held, "
        f"all treated after {ticks * TICK_SECONDS / 3600:.1f} h"
    )
