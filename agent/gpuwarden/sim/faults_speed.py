"""Faults of speed, power and heat: cards that are slower than they should be, and why."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, NodeKnobs, Options, ratio_of


def _slow_clock(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.clock_ratio = ratio_of("slow_clock", options)


def _memory_clock(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.memory_clock_ratio = ratio_of("memory_clock", options)


def _stuck_pstate(knobs: Knobs, card: Card, options: Options) -> None:
    knobs.performance_state = int(options["state"])
    idle, busy = card.product.points["idle"], card.product.points[card.product.busy]
    knobs.clock_ratio = idle.graphics_clock_hertz / busy.graphics_clock_hertz
    knobs.memory_clock_ratio = idle.memory_clock_hertz / busy.memory_clock_hertz


def _power_cap(knobs: Knobs, card: Card, options: Options) -> None:
    limits = card.product.power_limit_watts
    knobs.power_limit_watts = float(options["watts"]) or limits.min
    if not limits.min <= knobs.power_limit_watts <= limits.max:
        raise InputError(f"power_cap: {card.product.name} takes {limits.min:g} to {limits.max:g} watts")


def _slow_work(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.work_ratio = ratio_of("slow_work", options)


def _throughput_away(knobs: NodeKnobs, _: Options) -> None:
    knobs.throughput_away = True


def _hw_thermal(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.hw_thermal = True


def _memory_heat(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.memory_target_celsius = float(options["celsius"])


def _needs_memory_sensor(card: Card) -> str:
    return "" if card.product.points["idle"].memory_celsius is not None else "has no memory temperature"


ROWS = (
    Fault(
        name="slow_work",
        what="the work gets on at `ratio` of its pace although the clock is what it should be",
        gpu="any",
        options={"ratio": 0.7},
        card=_slow_work,
    ),
    Fault(
        name="throughput_away",
        what="the workload's own throughput endpoint does not answer",
        gpu="none",
        node=_throughput_away,
    ),
    Fault(
        name="hw_slowdown", what="the hardware slows the GPU down for a hot spot that no sensor shows", card=_hw_thermal
    ),
    Fault(
        name="memory_heat",
        what="the memory goes to `celsius`",
        options={"celsius": 106.0},
        card=_memory_heat,
        usable=_needs_memory_sensor,
    ),
    Fault(
        name="slow_clock",
        cure="reset",
        what="the clock under load is `ratio` of what it should be, and the driver gives no reason",
        gpu="any",
        options={"ratio": 0.85},
        card=_slow_clock,
    ),
    Fault(
        name="memory_clock",
        what="the memory clock under load is `ratio` of what it should be",
        options={"ratio": 0.5},
        card=_memory_clock,
    ),
    Fault(
        name="stuck_pstate",
        cure="reset",
        what="a busy GPU stays in an idle performance state, with that state's clocks",
        options={"state": 8},
        card=_stuck_pstate,
    ),
    Fault(
        name="power_cap",
        what="somebody set a power limit of `watts` (0: the lowest there is)",
        gpu="any",
        options={"watts": 0.0},
        card=_power_cap,
    ),
)
