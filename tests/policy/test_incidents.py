"""Incidents: holds, hysteresis, latches, and what uncertainty must not do."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from gpuwarden.engine import advance, initial
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import (
    CounterRow,
    ForgetGpu,
    Injected,
    InventoryRow,
    LatchRow,
    Reloaded,
    Restored,
    Stamp,
)
from gpuwarden.model.settings import Settings
from support.story import Story, uuid

HOT = {"core_celsius": 88.0}


def test_a_hold_must_pass_without_a_break() -> None:
    """core_near_limit holds for 60 s: 59 warm seconds are none, one cool second starts it anew."""
    story = Story().started(1)
    story.running(59, 0, **HOT)
    story.running(1, 0)
    story.running(60, 0, **HOT)
    assert story.open() == set()
    story.running(2, 0, **HOT)
    assert story.open() == {("thermal.core_near_limit", uuid(0))}


def test_an_incident_ends_after_its_clear_time_and_counts_flaps() -> None:
    """Thirty cool seconds end it; a warm one in between is a flap, not a new incident."""
    story = Story().started(1)
    story.running(65, 0, **HOT)
    story.running(20, 0)
    story.running(1, 0, **HOT)
    key = ("thermal.core_near_limit", uuid(0))
    assert story.node.incidents[key].flaps == 1
    story.running(32, 0)
    assert key not in story.open()
    assert story.told("opened") == ["thermal.core_near_limit"]
    assert story.told("cleared") == ["thermal.core_near_limit"]


def test_uncertainty_neither_opens_nor_clears() -> None:
    """A hot GPU that falls silent stays hot in the books; a silent one does not become hot."""
    story = Story().started(1)
    story.running(65, 0, **HOT)
    story.wait(300)
    assert ("thermal.core_near_limit", uuid(0)) in story.open()
    assert story.gpu(0).readings.core_celsius is Missing.TIMED_OUT


def test_reset_class_ends_when_the_gpu_started_over() -> None:
    """Time does not heal a fallen GPU; counters back at zero prove the reset, whoever did it."""
    story = Story().started(1)
    story.running(2, 0, energy_joules=500.0)
    story.xid(0, 95)
    story.running(7200, 0, energy_joules=600.0)
    assert ("xid.xid_95", uuid(0)) in story.open()
    story.running(1, 0, energy_joules=1.0)
    assert story.open() == set()
    assert story.about("incident")[-1].evidence["reason"] == "reset or driver reload"


def test_application_class_ends_after_its_latch_time_without_repetition() -> None:
    """An hour after the last one, not after the first."""
    story = Story().started(1)
    story.xid(0, 31)
    story.wait(3000)
    story.xid(0, 31)
    story.wait(3599)
    assert ("xid.xid_31", uuid(0)) in story.open()
    story.wait(2)
    assert ("xid.xid_31", uuid(0)) not in story.open()


def test_recovery_class_ends_when_the_driver_says_none_later() -> None:
    """A reading from before the event does not end it; one after it does."""
    story = Story().started(1)
    story.sample(0, Lane.NORMAL, recovery_action=0)
    story.xid(0, 154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    story.wait(2)
    assert ("xid.xid_154", uuid(0)) in story.open()
    story.sample(0, Lane.NORMAL, recovery_action=0)
    story.wait(1)
    assert ("xid.xid_154", uuid(0)) not in story.open()


def restored(boot: str, opened: Stamp, kind: str = "xid.xid_95") -> Restored:
    node = Story().started(1).node
    identity = node.gpus[uuid(0)].identity
    return Restored(
        at=Stamp(boot, 50.0, 1_790_100_000.0),
        inventory=(InventoryRow(identity=identity, index=0, first_seen=1.0, last_seen=2.0),),
        latches=(
            LatchRow(
                kind=kind,
                severity="critical",
                uuid=uuid(0),
                opened=opened,
                last_seen=opened,
                count=3,
                latched=True,
                drill=False,
                evidence={"xid": msgspec.Raw(b"95")},
            ),
        ),
        counters=(
            CounterRow(family="xid", uuid=uuid(0), name="95", label="driver", total=3, last=7.0),
            CounterRow(family="incident", uuid="", name="xid.xid_95", label="critical", total=1, last=0.0),
            CounterRow(family="sxid", uuid="", name="20034", label="yes", total=2, last=0.0),
        ),
    )


def test_what_the_journal_remembered_is_there_before_anything_is_seen() -> None:
    """Inventory, counters and open incidents of this boot: nothing is counted or judged twice after a restart."""
    story = Story(boot="b1", at=40.0)
    story.take(restored("b1", Stamp("b1", 30.0, 1_790_099_980.0)))
    assert story.open() == {("xid.xid_95", uuid(0))}
    assert story.node.incidents["xid.xid_95", uuid(0)].evidence == {"xid": 95}
    assert story.gpu(0).xids[0].total == 3
    assert story.node.sxids == {(20034, "yes"): 2}
    assert story.node.incident_totals == {("xid.xid_95", "critical"): 1}
    assert story.told("opened") == []


def test_a_reboot_ends_reset_class_latches_and_says_so() -> None:
    """The boot id changed: that repair is proven by itself."""
    story = Story(boot="b2", at=40.0)
    story.take(restored("b2", Stamp("b1", 30.0, 1_790_099_980.0)))
    assert story.open() == set()
    assert story.about("incident")[-1].evidence["reason"] == "rebooted"


def test_incident_ids_do_not_repeat_after_a_restart() -> None:
    """Ids are boot id and counter; the counter goes on from what this boot had."""
    story = Story(boot="b1", at=40.0)
    story.take(restored("b1", Stamp("b1", 30.0, 1_790_099_980.0)))
    story.xid(0, 48)
    ids = [incident.id for incident in story.node.incidents.values()]
    assert len(set(ids)) == len(ids)
    assert "b1-2" in ids


def test_a_forgotten_gpu_takes_its_incidents_with_it() -> None:
    """`forget` is for cards that left: series, counters and findings go, and the request is history."""
    story = Story().started(2)
    story.failed(1, 15)
    story.take(ForgetGpu(at=story.at, uuid=uuid(1)))
    assert uuid(1) not in story.node.gpus
    assert story.open() == set()
    assert [event.name for event in story.events if event.kind == "request"] == ["forget"]


def test_a_kind_switched_off_by_a_reload_ends_its_incidents() -> None:
    """All or nothing: the new settings judge from the next look on."""
    story = Story().started(1)
    story.failed(0, 15)
    kinds = default_settings()
    kinds["presence.gpu_lost"] = replace(kinds["presence.gpu_lost"], enabled=False)
    story.take(Reloaded(at=story.at, ok=True, settings=Settings(kinds=kinds)))
    assert story.open() == set()


def test_a_refused_reload_keeps_the_settings_and_says_so() -> None:
    """The old settings stay in force; only the flag changes."""
    story = Story().started(1)
    before = story.node.settings
    story.take(Reloaded(at=story.at, ok=False, detail="no"))
    assert story.node.settings is before
    assert not story.node.config_ok


def test_during_a_drill_incidents_are_marked() -> None:
    """Game day: everything that opens while it lasts carries the mark."""
    story = Story().started(1)
    story.take(Injected(at=story.at, active=True, detail="game day"))
    story.failed(0, 15)
    assert story.node.incidents["presence.gpu_lost", uuid(0)].drill
    assert story.events[-1].drill


def test_the_engine_is_a_function_of_its_observations() -> None:
    """The same observations give the same state, byte for byte: no clock, no random, no order of sets."""

    def run() -> Story:
        story = Story().started(3)
        story.xid(1, 79)
        story.running(100, 0, 2, core_celsius=93.0)
        return story

    first, second = run(), run()
    assert first.node == second.node
    assert first.events == second.events


def test_the_observation_s_time_never_runs_backwards() -> None:
    """A late frame does not set the node's clock back."""
    node = initial(Stamp("b", 100.0, 1.0), Settings(kinds=default_settings()))
    from gpuwarden.model.observation import Tick

    assert advance(node, Tick(at=Stamp("b", 90.0, 0.0))).state.now.boottime == 100.0
