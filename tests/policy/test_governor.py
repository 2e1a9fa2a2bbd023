"""The heat governor: on the simulator's physics, and what may never be whatever is read."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwarden.model.heat import SETTINGS, Heat, Lease, Setting
from gpuwarden.policy.governor import Limits, Ranges, stepped
from gpuwarden.sim.card import Load
from gpuwarden.sim.products import products
from gpuwarden.sim.scenario import Step
from gpuwarden.sim.world import World
from support.heatlab import HeatLab, Second

PRODUCT = products()["rtx4090"]
LIMIT = PRODUCT.thresholds_celsius.slowdown


@functools.cache
def best_constant_watts(target: float, airflow: float = 1.0) -> float:
    """Return the power at the highest constant cap that keeps a card at the target in a room of 45 C, fans at full."""

    def settles(cap: float) -> tuple[float, float]:
        world = World(PRODUCT, 1, ambient_celsius=45.0, loads=(Load("full"),))
        card = world.cards[0]
        card.knobs.airflow, card.power_limit_watts, card.manual_fans = airflow, cap, {0: 1.0, 1: 1.0}
        world.advance(900.0)
        return card.core_celsius, card.power_watts

    low, high = PRODUCT.power_limit_watts.min, PRODUCT.power_limit_watts.default
    while high - low > 1.0:
        middle = (low + high) / 2
        low, high = (middle, high) if settles(middle)[0] <= target + 0.5 else (low, middle)
    return settles(low)[1]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def turns(life: list[Second]) -> int:
    """Return how often the power limit changed its direction."""
    moves = [b.limit_watts - a.limit_watts for a, b in itertools.pairwise(life) if a.limit_watts != b.limit_watts]
    return sum(1 for a, b in itertools.pairwise(moves) if a * b < 0)


@pytest.mark.parametrize(("target", "airflow"), [(70.0, 1.0), (65.0, 0.5)])
def test_a_rig_in_a_room_of_45_c_stays_at_its_target_at_hardly_any_loss(target: float, airflow: float) -> None:
    """Eight cards: never at the limit, at the target once settled, still, at 97 % of the best constant cap."""
    dust = [Step(seconds=0.0, fault="dust", options={"airflow": airflow})]
    lab = HeatLab("rtx4090x8", target=target, steps=dust, seconds=1800.0).run()
    best = best_constant_watts(target, airflow)
    for life in lab.seconds:
        settled = life[900:]
        assert max(second.celsius for second in life) < LIMIT
        assert max(second.celsius for second in settled) <= target + 1.0
        assert turns(settled) == 0
        assert mean([second.watts for second in settled]) >= 0.97 * best


def test_with_the_cards_own_target_a_healthy_rig_gives_up_nothing() -> None:
    """In a room of 45 C a card with good air stays below its target by itself: no setting is touched."""
    lab = HeatLab("rtx4090x8", seconds=900.0).run()
    assert lab.orders == []
    assert lab.events == []


def test_it_recovers_when_the_room_cools() -> None:
    """All settings are given back, the fan last, and the work is at full power again."""
    room = [Step(seconds=900.0, fault="hot_room", options={"celsius": 22.0, "seconds": 60.0})]
    lab = HeatLab(target=70.0, seconds=5400.0, steps=room).run()
    life = lab.seconds[0]
    assert life[850].limit_watts < 400
    assert lab.heat().wanted == {}
    assert lab.node.world.cards[0].manual_fans == {}
    assert life[-1].limit_watts == PRODUCT.power_limit_watts.default
    assert life[-1].watts > 400
    assert max(second.celsius for second in life[900:]) <= 71.0
    assert lab.orders[-1].wanted == {}


def test_a_blocked_fan_is_survived() -> None:
    """One of two fans stands: the power limit makes up for it."""
    lab = HeatLab(target=75.0, steps=[Step(seconds=60.0, fault="fan", gpu=0, options={"fan": 0})]).run()
    life = lab.seconds[0]
    assert max(second.celsius for second in life) < LIMIT
    assert max(second.celsius for second in life[900:]) <= 76.0
    assert life[-1].limit_watts < 400


def test_a_card_that_refuses_caps_is_asked_once_and_its_clock_is_used() -> None:
    """The refusal is remembered; the next means of the list does it."""
    steps = [Step(seconds=0.0, fault="refuses", gpu=0), Step(seconds=0.0, fault="dust", options={"airflow": 0.5})]
    lab = HeatLab(target=70.0, steps=steps).run()
    life = lab.seconds[0]
    assert sum(Setting.POWER in order.wanted for order in lab.orders) == 1
    assert lab.heat().refused == (Setting.POWER,)
    assert Setting.CLOCK in lab.heat().wanted
    assert max(second.celsius for second in life) < LIMIT
    assert max(second.celsius for second in life[900:]) <= 71.0


def test_an_unknown_temperature_is_not_a_cool_one() -> None:
    """The fan that is ours goes to full speed, the cap stays where it is, and nothing is renewed."""
    nonsense = [Step(seconds=600.0, fault="implausible", gpu=0)]
    lab = HeatLab(target=70.0, steps=nonsense, seconds=900.0).run()
    life = lab.seconds[0]
    assert life[620].fan_ratio == 1.0
    assert life[-1].limit_watts == life[600].limit_watts
    late = [order for order in lab.orders if order.read.boottime > lab.started + 601.0]
    assert late == []
    assert lab.orders[-1].wanted[Setting.FAN] == 1.0


def test_a_sensor_that_stands_still_while_the_power_rises_is_unknown() -> None:
    """A reading stuck at a cool value eases nothing."""
    stuck = [Step(seconds=900.0, fault="implausible", gpu=0, options={"value": 50})]
    lab = HeatLab(target=70.0, ambient=45.0, steps=stuck, seconds=3600.0).run()
    life = lab.seconds[0]
    assert life[-1].limit_watts < PRODUCT.power_limit_watts.default
    assert life[-1].limit_watts == life[1500].limit_watts
    assert max(second.celsius for second in life) < LIMIT
    assert lab.state.now.boottime - lab.orders[-1].read.boottime > 600.0


def test_in_shadow_it_says_what_it_would_do_and_asks_for_nothing() -> None:
    """Bounded: at once when a setting would begin, else once a minute."""
    lab = HeatLab(target=70.0, mode="shadow", seconds=1200.0).run()
    assert lab.orders == []
    assert lab.events
    assert {event.state for event in lab.events} == {"shadow"}
    assert len(lab.events) <= 1200 / 60 + len(SETTINGS)
    assert lab.events[0].evidence["fan_ratio"] is not None


def test_the_stop_switch_takes_nothing_more() -> None:
    """On, or not readable: no setting is taken."""
    for stopped in (True, None):
        lab = HeatLab(target=70.0, seconds=300.0, stopped=stopped).run()
        assert all(order.wanted == {} for order in lab.orders)


def test_a_restart_in_a_hot_room_changes_no_cap() -> None:
    """What another run has set is adopted, and goes on from there."""
    lab = HeatLab(target=70.0, seconds=120.0)
    card = lab.node.world.cards[0]
    card.power_limit_watts, card.manual_fans = 384.0, {0: 1.0, 1: 1.0}
    card.settle(45.0)
    lab.node.world.advance(600.0)
    common = {
        "uuid": card.identity.uuid,
        "bdf": card.identity.bdf,
        "taken": 0.0,
        "renewed": 0.0,
        "target_celsius": 70.0,
    }
    lab._leases = (
        Lease(setting=Setting.POWER, value=384.0, before=450.0, **common),
        Lease(setting=Setting.FAN, value=1.0, before=0.6, **common),
    )
    lab.run()
    assert {second.limit_watts for second in lab.seconds[0]} <= {384.0, 390.0}
    assert {second.fan_ratio for second in lab.seconds[0]} == {1.0}


def test_in_a_hot_room_every_card_gives_up_some_power() -> None:
    """`room_hot`: also the cards that are cool enough themselves."""
    heat = [Step(seconds=30.0, fault="heat", gpu=n, options={"celsius": 93.0}) for n in range(7)]
    lab = HeatLab("rtx4090x8", steps=heat, seconds=400.0).run()
    assert ("thermal.room_hot", "") in lab.state.incidents
    assert lab.seconds[7][-1].limit_watts <= 0.9 * 450
    assert lab.state.remedy.cases == {}


# ---- what may never be

RANGES = Ranges(fan=True, power=(150.0, 450.0), clock=(930e6, 3105e6), clock_now=2500e6)
LIMITS = Limits(84.0, 96.0)
READINGS = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(20.0, 110.0)), st.booleans(), st.booleans(), st.integers(1, 40)),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(READINGS, st.floats(0.0, 1.0), st.sets(st.sampled_from(SETTINGS)))
def test_settings_stay_within_bounds_and_move_one_step_in_the_right_direction(
    readings: list[tuple[float | None, bool, bool, int]], automatic: float, refused: set[Setting]
) -> None:
    """Never outside the card's limits, never a fan below the driver's own, one setting a step, never eased when hot
    or unknown, never tightened when cool, and nothing of a card that refused it."""
    heat, now = Heat(automatic_ratio=automatic, refused=tuple(sorted(refused, key=SETTINGS.index))), 1000.0
    for celsius, room_hot, may_take, passed in readings:
        now += passed
        if celsius is not None:
            heat = _settled(heat, celsius, now)
        after = stepped(
            heat, known=celsius is not None, limits=LIMITS, ranges=_ranges(refused), room_hot=room_hot,
            may_take=may_take, now=now,
        )  # fmt: skip
        changed = [setting for setting in SETTINGS if after.value(setting) != heat.value(setting)]
        assert len(changed) <= 1
        assert not refused & after.wanted.keys()
        _within_bounds(after, automatic)
        for setting in changed:
            was = _harshness(heat, setting)
            harsher = _harshness(after, setting) > was
            if celsius is None:
                assert setting is Setting.FAN
                assert after.fan_ratio == 1.0
            elif celsius > LIMITS.target_celsius + 0.5:
                assert harsher
            elif celsius < LIMITS.target_celsius - 0.6:
                assert not harsher or room_hot
            assert not harsher or may_take or setting is Setting.FAN
        heat = after


def _settled(heat: Heat, celsius: float, now: float) -> Heat:
    from msgspec.structs import replace

    return replace(heat, quick_celsius=celsius, slow_celsius=celsius, draw_watts=400.0, sampled=now)


def _ranges(refused: set[Setting]) -> Ranges:
    return RANGES._replace(
        fan=Setting.FAN not in refused,
        power=None if Setting.POWER in refused else RANGES.power,
        clock=None if Setting.CLOCK in refused else RANGES.clock,
    )


def _within_bounds(heat: Heat, automatic: float) -> None:
    assert heat.fan_ratio is None or automatic <= heat.fan_ratio <= 1.0
    assert heat.power_watts is None or 150.0 <= heat.power_watts <= 450.0
    assert heat.clock_hertz is None or 930e6 <= heat.clock_hertz <= 3105e6


def _harshness(heat: Heat, setting: Setting) -> float:
    """Return how far a setting is used, 0 where it is not."""
    value = heat.value(setting)
    if value is None:
        return 0.0
    return 1.0 + value if setting is Setting.FAN else 1e10 - value
