"""The simulated node: time, faults, kernel log and events."""

from __future__ import annotations

import pytest

from gpuwarden.errors import InputError
from gpuwarden.model.kernel_log import parse_record
from gpuwarden.model.kernel_message import parse_message
from gpuwarden.model.observation import LineKind
from gpuwarden.sim import faults
from gpuwarden.sim.faults import FAULTS
from gpuwarden.sim.products import products
from gpuwarden.sim.world import World


def world(product: str = "a100", count: int = 4) -> World:
    return World(products()[product], count)


def kinds(node: World) -> list[tuple[LineKind, int | None, str | None]]:
    """Return what our own parser reads in the simulated kernel log."""
    lines = (parse_message(parse_record(raw).text) for raw in node.records)
    return [(line.kind, line.code, line.bdf) for line in lines if line is not None]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_comes_and_goes(name: str) -> None:
    """Each row can be put in with its defaults and taken out again, and leaves no knob turned."""
    node = world({"fan": "rtx4090", "fabric": "h100", "retire": "t4"}.get(name, "a100"))
    before = [card.knobs for card in node.cards]
    gpu = None if FAULTS[name].gpu == "none" else 1
    node.inject(name, gpu)
    assert [on.fault for on in node.active] == ([name] if FAULTS[name].lasts else [])
    node.advance(1.0)
    node.clear(name, gpu)
    assert node.active == []
    assert [card.knobs for card in node.cards] == before
    assert node.node_knobs == faults.NodeKnobs()


def test_a_fault_touches_its_own_card_only() -> None:
    """Siblings of a faulty GPU are as healthy as before."""
    node = world()
    node.inject("lost", 2)
    assert [card.knobs.return_code for card in node.cards] == [None, None, 15, None]


def test_without_a_gpu_a_fault_may_take_all() -> None:
    """`hung` and its like take the whole node; a GPU's own fault does not."""
    node = world()
    node.inject("hung")
    assert all(card.knobs.hung == frozenset() for card in node.cards)
    with pytest.raises(InputError, match="needs a GPU: 0 to 3"):
        node.inject("lost")


@pytest.mark.parametrize(
    ("name", "gpu", "options", "says"),
    [
        ("meteor", 0, {}, "known are access_lost"),
        ("xid", 9, {}, "no GPU 9"),
        ("hot_room", 1, {}, "takes no GPU"),
        ("xid", 0, {"cod": 79}, "its options are code=79"),
        ("xid", 0, {"code": "many"}, "code is a whole number"),
        ("implausible", 0, {"reading": "mood"}, "reading is one of temperature"),
        ("fan", 0, {}, "has no fans"),
    ],
)
def test_mistakes_are_answered_with_what_there_is(name: str, gpu: int, options: dict[str, object], says: str) -> None:
    """A mistake changes nothing and names what can be done."""
    node = world()
    with pytest.raises(InputError, match=says):
        node.inject(name, gpu, options)
    assert node.active == []


def test_kernel_records_are_the_kernels_and_numbered() -> None:
    """Raw records of facility 0 with rising numbers and times."""
    node = world()
    node.advance(2.0)
    node.inject("fallen_off", 1)
    records = [parse_record(raw) for raw in node.records]
    numbers = [record.sequence for record in records if record.sequence is not None]
    assert numbers == list(range(numbers[0], numbers[0] + len(records)))
    assert {record.facility for record in records} == {0}
    assert records[-1].usec == 2_000_000


def test_a_card_that_falls_off_the_bus_says_so_as_the_driver_does() -> None:
    """Xid 79, the plain line, the recovery action, an event, and a device that answers nothing."""
    node = world()
    node.inject("fallen_off", 1)
    where = "0000:21:00"
    assert {(LineKind.XID, 79, where), (LineKind.FALLEN_OFF_BUS, None, where), (LineKind.XID, 154, where)} <= set(
        kinds(node)
    )
    assert [(event.slot, event.kind, event.data) for event in node.events] == [(1, 8, 79)]
    assert node.cards[1].knobs.dead


@pytest.mark.parametrize("code", [13, 31, 43, 45, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 154, 999])
def test_every_xid_line_is_read_back(code: int) -> None:
    """What the simulated kernel writes is what our parser reads, for each code."""
    node = world()
    node.inject("xid", 3, {"code": code})
    assert kinds(node)[-1] == (LineKind.XID, code, "0000:61:00")


def test_a_core_at_its_shutdown_temperature_takes_the_card_down() -> None:
    """Nothing survives its own shutdown limit."""
    node = world()
    node.inject("heat", 0, {"celsius": 95, "seconds": 5})
    node.advance(20.0)
    assert node.cards[0].knobs.dead
    assert (LineKind.XID, 79, "0000:01:00") in kinds(node)


def test_heat_ends_just_over_the_slowdown_and_goes() -> None:
    """The default heat fault is over the limit, under the shutdown, and ends when it is cleared."""
    node = world()
    limits = node.product.thresholds_celsius
    node.inject("heat", 0)
    node.advance(20.0)
    assert limits.slowdown < node.cards[0].core_celsius < limits.shutdown
    node.clear("heat", 0)
    node.advance(300.0)
    assert node.cards[0].core_celsius < limits.slowdown - 20


def test_a_hot_room_warms_every_card() -> None:
    """Every core follows its room."""
    node = world()
    before = [card.core_celsius for card in node.cards]
    node.inject("hot_room", options={"celsius": 45.0})
    node.advance(600.0)
    assert all(card.core_celsius > was + 10 for card, was in zip(node.cards, before, strict=True))


def test_a_driver_reload_starts_a_new_session() -> None:
    """No driver meanwhile; then counters start anew and old handles are dead."""
    node = world()
    node.advance(10.0)
    node.inject("driver_reload", options={"seconds": 3, "version": "595.71.05"})
    assert node.listed() == []
    node.advance(3.0)
    assert len(node.listed()) == 4
    assert (node.session, node.driver_version) == (2, "595.71.05")
    assert node.cards[0].counters.energy_joules < 100


def test_a_crash_goes_after_its_times() -> None:
    """A crash fault counts down with each process it killed."""
    node = world()
    node.inject("crash", 1, {"times": 2})
    node.crashed(1)
    assert node.cards[1].knobs.crash == frozenset()
    node.crashed(1)
    assert node.cards[1].knobs.crash is None


def test_the_same_world_runs_the_same_way() -> None:
    """Determinism: a scenario's end does not depend on who advances it in which portions."""
    coarse, fine = world(), world()
    coarse.advance(30.0)
    for _ in range(120):
        fine.advance(0.25)
    assert [card.core_celsius for card in coarse.cards] == [card.core_celsius for card in fine.cards]
