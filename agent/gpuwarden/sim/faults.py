"""The faults that can be put into a simulated node, one row each: what it is, its options, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping

from gpuwarden.errors import InputError
from gpuwarden.sim import (
    faults_heat,
    faults_links,
    faults_mig,
    faults_presence,
    faults_speed,
    faults_work,
    kernel_lines,
)
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import EVENT_XID, Fault, Node, NodeKnobs, Options
from gpuwarden.sim.faults_log import LOG_FAULTS
from gpuwarden.sim.faults_memory import MEMORY_FAULTS

__all__ = ["FAULTS", "Fault", "Node", "NodeKnobs", "Options", "checked_options", "find"]

_LOST, _UNKNOWN, _NO_PERMISSION, _RESET_REQUIRED = 15, 999, 4, 16  # source: nvml.h, nvmlReturn_t
_RESET, _REBOOT = 1, 2  # NVML recovery actions

IMPLAUSIBLE = {  # reading -> the raw answer that was seen of real drivers
    "temperature": 644245923,
    "power": 0,
    "clock": 4294967295,
    "utilization": 4294967295,
    "memory": 18446744073709551615,
}


def _functions(options: Options) -> frozenset[str]:
    """Return the C function an option names, with or without `nvmlDevice` and `Get` before it; none: every one."""
    name = str(options["call"])
    if not name or name.startswith("nvml"):
        return frozenset({name} - {""})
    return frozenset({f"nvmlDeviceGet{name}", f"nvmlDevice{name}", f"nvml{name}"})


def _lost(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.return_code, knobs.handle_code = int(options["code"]), int(options["handle_code"])


def _fallen(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.return_code, knobs.handle_code, knobs.dead = _LOST, _UNKNOWN, True
    knobs.recovery_action = _REBOOT
    knobs.gone = bool(options["gone"])


def _fall(node: Node, card: Card | None, _: Options) -> None:
    assert card is not None
    for line in kernel_lines.fallen_off(card):
        node.log(line)
    node.event(card, EVENT_XID, 79)


def _missing(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.gone, knobs.return_code, knobs.handle_code = True, _LOST, _LOST


def _hung(knobs: Knobs, _: Card, options: Options) -> None:
    wanted = _functions(options)
    knobs.hung = wanted if knobs.hung is None or not wanted else (knobs.hung | wanted if knobs.hung else knobs.hung)


def _hung_session(knobs: NodeKnobs, options: Options) -> None:
    knobs.hung |= _functions(options)


def _slow(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.delay_seconds, knobs.delayed = float(options["seconds"]), _functions(options)


def _crash(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.crash = _functions(options)


def _downtrained(knobs: Knobs, card: Card, options: Options) -> None:
    knobs.link_width_lanes = min(int(options["width"]), card.product.pcie_width_lanes)
    knobs.link_generation = int(options["generation"]) or None
    knobs.replays_per_second = float(options["replays_per_second"])
    knobs.aer_per_second = float(options["replays_per_second"])


def _fan(knobs: Knobs, card: Card, options: Options) -> None:
    fan = int(options["fan"])
    knobs.fans_stopped = tuple(range(card.product.fans)) if fan < 0 else (fan,)


def _no_access(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.return_code = knobs.handle_code = _NO_PERMISSION


def _no_session(knobs: NodeKnobs, _: Options) -> None:
    knobs.init_code = _UNKNOWN


def _ghost(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.ghost = True


def _hot_room(knobs: NodeKnobs, options: Options) -> None:
    knobs.ambient_celsius, knobs.ambient_seconds = float(options["celsius"]), max(0.1, float(options["seconds"]))


def _heat(knobs: Knobs, card: Card, options: Options) -> None:
    limits = card.product.thresholds_celsius
    target = float(options["celsius"]) or (limits.slowdown + min(2.0, (limits.shutdown - limits.slowdown) / 2))
    knobs.core_target_celsius = target
    knobs.core_lag_seconds = max(0.2, float(options["seconds"]) / 3)  # three time constants: nearly there


def _reload(node: Node, _: Card | None, options: Options) -> None:
    node.unload(float(options["seconds"]), str(options["version"]))


def _implausible(knobs: Knobs, _: Card, options: Options) -> None:
    reading, value = str(options["reading"]), int(options["value"])
    if reading not in IMPLAUSIBLE:
        raise InputError(f"implausible: reading is one of {', '.join(IMPLAUSIBLE)}, not {reading!r}")
    knobs.implausible[reading] = value if value >= 0 else IMPLAUSIBLE[reading]


def _brake(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.power_brake = True


def _needs_reset(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.return_code = knobs.handle_code = _RESET_REQUIRED
    knobs.recovery_action = max(knobs.recovery_action, _RESET)


def _needs_fans(card: Card) -> str:
    return "" if card.product.fans else "has no fans of its own"


_ROWS = (
    Fault(
        name="lost",
        cure="reboot",
        what="the driver loses the GPU: every call answers GPU_IS_LOST",
        options={"code": _LOST, "handle_code": _LOST},
        card=_lost,
    ),
    Fault(
        name="fallen_off",
        cure="reboot",
        what="Xid 79: the GPU falls off the bus, with its kernel lines; gone=1 takes it out of the PCI tree too",
        options={"gone": 0},
        card=_fallen,
        begin=_fall,
    ),
    Fault(name="missing", cure="reboot", what="the GPU is on no bus and in no driver's list", card=_missing),
    Fault(
        name="hung",
        cure="reboot",
        what="calls never return: one call of one GPU (call=PowerUsage), all of its calls, or of all GPUs",
        gpu="any",
        options={"call": ""},
        card=_hung,
    ),
    Fault(
        name="hung_session",
        cure="reboot",
        what="a call of the session never returns: nvmlInitWithFlags, nvmlEventSetWait_v2 or another",
        gpu="none",
        options={"call": "nvmlInitWithFlags"},
        node=_hung_session,
    ),
    Fault(
        name="slow",
        cure="reboot",
        what="calls take longer",
        gpu="any",
        options={"seconds": 0.5, "call": ""},
        card=_slow,
    ),
    Fault(
        name="crash",
        what="a library call kills its process with SIGSEGV, `times` times",
        gpu="any",
        options={"call": "", "times": 1},
        card=_crash,
    ),
    *MEMORY_FAULTS,
    *LOG_FAULTS,
    Fault(
        name="downtrained",
        cure="reset",
        what="the PCIe link runs with fewer lanes or a lower generation",
        options={"width": 4, "generation": 0, "replays_per_second": 0.0},
        card=_downtrained,
    ),
    Fault(name="fan", what="a fan is blocked (-1: all of them)", options={"fan": -1}, card=_fan, usable=_needs_fans),
    Fault(
        name="access_lost",
        what="a container loses its device rules: one GPU is refused, or without a GPU the whole session",
        gpu="any",
        card=_no_access,
        node=_no_session,
    ),
    Fault(
        name="ghost_busy", cure="reset", what="utilisation stuck at 100 % at idle power with no process", card=_ghost
    ),
    Fault(
        name="hot_room",
        what="the room warms to `celsius` within about `seconds`",
        gpu="none",
        options={"celsius": 45.0, "seconds": 60.0},
        node=_hot_room,
    ),
    Fault(
        name="heat",
        what="no air reaches one GPU: its core goes to `celsius` (0: just over its slowdown) within about `seconds`",
        options={"celsius": 0.0, "seconds": 12.0},
        card=_heat,
    ),
    Fault(
        name="driver_reload",
        what="the driver is unloaded for `seconds` and comes back, with another `version` where one is given",
        gpu="none",
        lasts=False,
        options={"seconds": 5.0, "version": ""},
        begin=_reload,
    ),
    Fault(
        name="implausible",
        what=f"the driver answers nonsense for one reading ({', '.join(IMPLAUSIBLE)}); value -1: nonsense seen before",
        options={"reading": "temperature", "value": -1},
        card=_implausible,
    ),
    Fault(name="power_brake", what="the power supply pulls the brake: half the clock", gpu="any", card=_brake),
    Fault(name="needs_reset", cure="reset", what="the driver refuses the GPU until it is reset", card=_needs_reset),
    *faults_links.ROWS,
    *faults_speed.ROWS,
    *faults_mig.ROWS,
    *faults_work.ROWS,
    *faults_presence.ROWS,
    *faults_heat.ROWS,
)
FAULTS: dict[str, Fault] = {row.name: row for row in _ROWS}


def find(name: str) -> Fault:
    """Return the row of a fault. Raises: InputError naming all of them."""
    if name not in FAULTS:
        raise InputError(f"unknown fault {name!r}: known are {', '.join(sorted(FAULTS))}")
    return FAULTS[name]


def checked_options(fault: Fault, given: Mapping[str, object]) -> Options:
    """Return all options of a fault, defaults filled in, each of its default's type.

    Raises: InputError naming the known options, or the one whose value cannot be read.
    """
    unknown = sorted(given.keys() - fault.options.keys())
    if unknown:
        known = ", ".join(f"{name}={default}" for name, default in fault.options.items()) or "none"
        raise InputError(f"{fault.name} has no option {unknown[0]!r}: its options are {known}")
    options = dict(fault.options)
    for name, value in given.items():
        kind = type(fault.options[name])
        try:
            options[name] = kind(str(value)) if kind is not str else str(value)
        except ValueError:
            raise InputError(f"{fault.name}: {name} is {'a whole number' if kind is int else 'a number'}") from None
    return options
