"""The rooms of readings: one table of what is a finding, one of what is not, and what absence means for each."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden import checks
from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.observation import PciDevice, PciScanned
from gpuwarden.model.severity import Severity
from gpuwarden.policy import sightings
from support.story import Story, bdf, uuid

H100_MARGIN = {"margin_celsius": 30.0, "margin_limit_slowdown_celsius": -2.0}
STATES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # kind, values that make it true, values close by that do not
    ("thermal.core_near_limit", {"core_celsius": 85.0}, {"core_celsius": 84.0}),
    ("thermal.core_near_limit", {"margin_celsius": 3.0, "margin_limit_slowdown_celsius": -2.0}, H100_MARGIN),
    ("thermal.core_over_limit", {"core_celsius": 90.0}, {"core_celsius": 89.0}),
    (
        "thermal.core_over_limit",
        {"core_celsius": 88.0, "margin_celsius": -2.0, "margin_limit_slowdown_celsius": -2.0},
        {"core_celsius": 50.0, "margin_celsius": -2.0, "margin_limit_slowdown_celsius": -2.0},
    ),
    ("thermal.memory_over_limit", {"memory_celsius": 105.0}, {"memory_celsius": 104.0}),
    ("thermal.memory_over_limit", {"memory_celsius": 96.0, "limit_memory_max_celsius": 95.0}, {"memory_celsius": 94.0}),
    (
        "power.capped_below_default",
        {"power_limit_enforced_watts": 300.0, "power_limit_default_watts": 450.0},
        {"power_limit_enforced_watts": 450.0, "power_limit_default_watts": 450.0},
    ),
    ("memory.ecc_uncorrected", {"ecc_uncorrected_volatile": 1}, {"ecc_uncorrected_volatile": 0}),
    ("memory.sram_threshold", {"sram_threshold_exceeded": 1}, {"sram_threshold_exceeded": 0}),
    ("memory.row_remap_pending", {"row_remap_pending": 1}, {"row_remap_pending": 0}),
    ("memory.row_remap_failed", {"row_remap_failed": 1}, {"row_remap_failed": 0}),
    ("memory.row_remap_spares_low", {"row_remap_banks": (600, 30, 9, 0, 1)}, {"row_remap_banks": (600, 30, 9, 0, 0)}),
    ("memory.row_remap_spares_low", {"row_remap_banks": (600, 30, 9, 1, 0)}, {"row_remap_banks": (600, 39, 1, 0, 0)}),
    ("memory.row_remap_pending", {"channel_repair_pending": 1}, {"channel_repair_pending": 0}),
    ("memory.row_remap_pending", {"tpc_repair_pending": 1}, {"tpc_repair_pending": 0}),
    ("memory.row_remap_failed", {"unrepairable_memory": 1}, {"unrepairable_memory": 0}),
    ("memory.row_remap_failed", {"remapped_rows_uncorrected": 512}, {"remapped_rows_uncorrected": 511}),
    ("memory.retired_pages_pending", {"retired_pages_pending": 1}, {"retired_pages_pending": 0}),
    (
        "memory.retired_pages_limit",
        {"retired_pages_sbe": 60, "retired_pages_dbe": 3},
        {"retired_pages_sbe": 60, "retired_pages_dbe": 2},
    ),
    ("memory.ecc_disabled", {"ecc_mode": 0, "ecc_mode_default": 1}, {"ecc_mode": 0, "ecc_mode_default": 0}),
    ("presence.recovery_action", {"recovery_action": 1}, {"recovery_action": 0}),
    ("presence.recovery_action", {"recovery_action": 42}, {"recovery_action": 0}),
]


def kinds_found(story: Story) -> set[str]:
    return {verdict.kind for verdict in verdicts(story.node) if isinstance(verdict, Finding)}


@pytest.mark.parametrize(("kind", "bad", "good"), STATES, ids=[f"{row[0]}-{n}" for n, row in enumerate(STATES)])
def test_a_state_is_a_finding_just_beyond_its_limit_and_not_before(
    kind: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    """Each limit from both sides, on a card with a 90 C slowdown limit."""
    story = Story().started(1)
    story.sample(0, **good)
    assert kind not in kinds_found(story)
    story.sample(0, **bad)
    assert kind in kinds_found(story)


@pytest.mark.parametrize("why", [Missing.TIMED_OUT, Missing.UNKNOWN, Missing.IMPLAUSIBLE])
@pytest.mark.parametrize(("kind", "bad"), [(row[0], row[1]) for row in STATES if row[0] != "thermal.core_near_limit"])
def test_an_absent_reading_is_unsure_never_healthy(kind: str, bad: dict[str, Any], why: Missing) -> None:
    """What cannot be read is not judged, and makes the GPU's health unknown."""
    story = Story().started(1)
    needed = next(iter(bad))
    story.sample(0, **(bad | {needed: why}))
    story.wait(1)
    assert Unsure(kind=kind, uuid=uuid(0)) in list(verdicts(story.node))
    assert story.gpu(0).health is Health.UNKNOWN


@pytest.mark.parametrize(("kind", "bad"), [(row[0], row[1]) for row in STATES if row[0] != "thermal.core_near_limit"])
def test_an_unsupported_reading_gives_no_verdict_at_all(kind: str, bad: dict[str, Any]) -> None:
    """A GeForce card without ECC is not unsure about it."""
    story = Story().started(1)
    story.sample(0, **(bad | {next(iter(bad)): Missing.NOT_SUPPORTED}))
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == kind]


def test_a_refused_reading_is_a_blind_spot_and_not_unknown_health() -> None:
    """NO_PERMISSION is said elsewhere; a GPU is not ill because we may not read its ECC mode."""
    story = Story().started(1)
    story.sample(0, ecc_uncorrected_volatile=Missing.NO_PERMISSION)
    story.wait(1)
    assert story.gpu(0).health is Health.HEALTHY


def test_a_mild_recovery_action_is_a_warning() -> None:
    """Drain and reset lets work go on; reset and reboot do not."""
    for action, severity in ((4, Severity.WARNING), (2, Severity.CRITICAL)):
        story = Story().started(1)
        story.sample(0, recovery_action=action)
        story.wait(1)
        assert story.node.incidents["presence.recovery_action", uuid(0)].severity is severity


def test_the_configured_limit_wins_over_the_card_s() -> None:
    """`[thermal] core_limit_celsius` is the operator's word."""
    story = Story().started(1)
    story.node = replace(story.node, settings=replace(story.node.settings, core_limit_celsius=70.0))
    story.sample(0, core_celsius=71.0)
    assert "thermal.core_over_limit" in kinds_found(story)


def test_thermal_slowdown_is_judged_by_time_spent_in_it() -> None:
    """A blink at a change of state is none; a tenth of the window is."""
    story = Story().started(1)
    spent = 0.0
    for second in range(60):
        spent += 0.05 if second < 2 else 0.0
        story.running(1, 0, event_hw_thermal_seconds=spent)
    assert "thermal.hw_slowdown" not in kinds_found(story)
    for _ in range(30):
        spent += 0.5
        story.running(1, 0, event_hw_thermal_seconds=spent)
    assert "thermal.hw_slowdown" in kinds_found(story)


def test_a_hot_room_is_most_cards_together() -> None:
    """Three of four near their limit: the room. Two of four: two cards."""
    story = Story().started(4)
    for number in (0, 1):
        story.sample(number, core_celsius=87.0)
    assert "thermal.room_hot" not in kinds_found(story)
    story.sample(2, core_celsius=87.0)
    assert "thermal.room_hot" in kinds_found(story)


def narrow(**load: Any) -> Story:
    story = Story().started(1)
    link = {"pcie_width_lanes": 8, "pcie_width_max_lanes": 16, "pcie_generation": 1, "pcie_generation_max": 4}
    story.running(90, 0, **(link | load))
    return story


def test_link_width_and_generation_are_judged_under_settled_load_only() -> None:
    """An idle link falls to generation 1 by design; a busy one that stays narrow is a fault."""
    assert kinds_found(narrow(gpu_utilization_ratio=0.2)) == set()
    assert {"links.pcie_width", "links.pcie_generation"} <= kinds_found(narrow(gpu_utilization_ratio=1.0))


def test_a_slot_that_limits_a_card_is_said_once_and_is_no_fault() -> None:
    """A Gen4 card in a Gen3 slot: a fact about the slot, told as info when it is first seen."""
    story = Story().started(1)
    for _ in range(2):
        story.sample(0, Lane.STATIC, pcie_generation_max=3, pcie_generation_gpu_max=4)
    story.running(90, 0, gpu_utilization_ratio=1.0, pcie_generation=3, pcie_width_lanes=16, pcie_width_max_lanes=16)
    said = [event for event in story.events if event.name == "pcie_slot_limited"]
    assert [(event.gpu, event.evidence["pcie_generation_gpu_max"]) for event in said] == [(0, 4)]
    assert "links.pcie_generation" not in kinds_found(story)
    story.running(1, 0, gpu_utilization_ratio=1.0, pcie_generation=1)
    slow = next(v for v in verdicts(story.node) if isinstance(v, Finding) and v.kind == "links.pcie_generation")
    assert slow.evidence == {"pcie_generation": 1, "pcie_generation_max": 3, "pcie_generation_gpu_max": 4}


def test_replays_have_a_budget_per_lane_and_generation() -> None:
    """Gen4 x16: 16 a minute are within NVIDIA's budget, 60 are not."""
    link = {"pcie_generation_max": 4, "pcie_width_max_lanes": 16}
    calm, busy = Story().started(1), Story().started(1)
    for second in range(90):
        calm.running(1, 0, **link, pcie_replays=second // 6)
        busy.running(1, 0, **link, pcie_replays=second)
    assert "links.pcie_replays" not in kinds_found(calm)
    assert "links.pcie_replays" in kinds_found(busy)


def test_uncorrected_aer_counters_are_a_finding() -> None:
    """New ones; those that stood there at first sight are the boot's own, and corrected ones alone are not."""
    story = Story().started(1)

    def scan(**counters: int) -> None:
        device = PciDevice(bdf=bdf(0), driver="nvidia", **counters)
        story.take(PciScanned(at=story.at, readable=True, devices=(device,), module_version="580.1"))

    scan(aer_correctable=500, aer_nonfatal=1, aer_fatal=0)
    assert "links.pcie_aer" not in kinds_found(story)
    scan(aer_correctable=500, aer_nonfatal=2, aer_fatal=0)
    assert "links.pcie_aer" in kinds_found(story)


def test_every_kind_of_the_rooms_can_be_said() -> None:
    """A kind that no room or sighting ever yields would be a promise not kept."""
    modules = [import_module(f"gpuwarden.checks.{found.name}") for found in pkgutil.iter_modules(checks.__path__)]
    text = "".join(inspect.getsource(module) for module in (*modules, sightings))
    for name in KINDS:
        if name.startswith("xid.xid_"):
            continue
        what = name.partition(".")[2]
        said = name in text or f'"{what}"' in text or what in ("pcie_width", "pcie_generation")
        assert said, name
