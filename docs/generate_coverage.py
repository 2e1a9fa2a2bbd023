"""Writes docs/coverage.md from runs of the scenarios of all finding kinds on all products: `make docs`.

A cell is a run: the kind's own scenario with another product in it, on virtual time through the real engine. What a
product cannot have is said by the fault (`usable`) or by `_ABSENT` here; a run that should bring its finding and does
not is no cell but an error, and so is a look-alike that raises anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from gpuwarden.model.kinds import KINDS, default_settings
from gpuwarden.model.settings import Settings
from gpuwarden.sim import faults
from gpuwarden.sim.judge import Outcome, judge
from gpuwarden.sim.products import Product, parse_spec, products
from gpuwarden.sim.scenario import Scenario, Step, load, of_findings, world_of

PAGE = Path(__file__).with_name("coverage.md")
SEEN = "seen"

NO_SCENARIO = {  # kind -> why no simulated GPU can show it; the file that tests it
    "host.journal_unwritable": ("about the agent's own disk", "tests/checks/test_host_itself.py"),
    "host.engine_error": ("about a fault of the agent, which no input is known to cause", "tests/test_mainloop.py"),
    "host.node_identity": ("about the scheduler's node, not a GPU", "tests/checks/test_host_itself.py"),
}

_BLACKWELL = 10  # source: nvml.h, nvmlDeviceArchitecture_t

_UNDER_MIG = "cut by MIG, the driver does not say how busy the whole GPU is"
_ROWS_UNDER_MIG = "cut by MIG, the driver counts no remapped rows"


def _mig(why: str) -> Callable[[Product], str]:
    return lambda product: why if product.mig_profiles else ""


_ABSENT: Mapping[str, Callable[[Product], str]] = {  # scenario -> why a product cannot have it, "" where it can
    "host.persistence_off": lambda product: "" if product.persistence else "off is GeForce's default",
    "host.orphan_memory": _mig("cut by MIG, memory is its instances'"),
    "links.fabric_manager_down": lambda product: "" if product.fabric or product.nvlinks >= 12 else "no NVSwitch",
    "links.ib_port_down": lambda product: "" if product.fabric else "no InfiniBand on the simulated host",
    "links.nvlink_down.healthy": lambda product: "boards of a fabric are never without their links" * product.fabric,
    "links.pcie_width": _mig(_UNDER_MIG),
    "links.pcie_generation": _mig(_UNDER_MIG),
    "memory.row_remap_pending": _mig(_ROWS_UNDER_MIG),
    "memory.row_remap_failed": _mig(_ROWS_UNDER_MIG),
    **{
        f"speed.{name}": _mig(_UNDER_MIG)
        for name in ("clock_deficit", "straggler", "stuck_pstate", "memory_clock", "ghost_busy", "throughput_drop")
    },
}
_UNUSABLE = {  # fault -> why, in a word, where its own is a sentence about the product
    "retired_pages": "retires no pages",
    "ecc": "no ECC",
    "ecc_off": "no ECC",
    "fan": "no fans",
}
_SAME_ON_ANOTHER: Mapping[tuple[str, str], Callable[[Product], dict[str, float | str]]] = {
    # (scenario, fault) -> what its numbers, which are one product's, are on another
    ("thermal.core_near_limit", "heat"): lambda product: {"celsius": product.thresholds_celsius.slowdown - 3.0},
    ("thermal.sw_slowdown", "heat"): lambda product: {"celsius": product.thresholds_celsius.max_operating + 0.4},
    ("thermal.memory_over_limit", "memory_heat"): lambda _: {"celsius": 107.0},  # over a limit that is not reported too
    ("links.pcie_replays", "downtrained"): lambda _: {"replays_per_second": 2.0},  # each generation has its own budget
    ("links.nvlink_errors", "nvlink_errors"): lambda product: {
        "error": "replay" if product.architecture < _BLACKWELL else "recovery"  # NVLink 5 counts no replays
    },
    ("thermal.room_hot", "hot_room"): lambda product: {
        "celsius": product.thresholds_celsius.slowdown - 9.0 if product.fans else 72.0
    },
    ("power.capped_below_default", "power_cap"): lambda product: {
        "watts": max(0.8 * product.power_limit_watts.default, product.power_limit_watts.min)
    },
    ("power.capped_below_default.healthy", "power_cap"): lambda product: {"watts": product.power_limit_watts.max},
    ("speed.clock_deficit", "slow_clock"): lambda product: {"ratio": 0.85 if product.customer_boost_hertz else 0.6},
}

_HEAD = """\
# Coverage

Which finding is seen on which product. Every cell is a run of that kind's own scenario (`gpuwarden simulate <kind>`)
with the product in it, on virtual time through the real engine; numbers that belong to one product (a temperature, a
power limit) are another's own. Each kind's healthy look-alike (`gpuwarden simulate <kind>.healthy`) was run on each
product too and raised nothing. The products are simulated from captured readings and data sheets: what a card does not
report, its simulated twin does not report. Written by `make docs`.

- `seen`: the finding came, on the right GPU.
- a number: not applicable, for the reason below the table.
- Xids and SXids are words of the driver: they are taken from any card that the kernel log names.
"""


def on(name: str, product: str) -> Scenario:
    """Return a scenario of a finding with another product in it."""
    scenario = load(name)
    was, count = parse_spec(scenario.product)
    if was == product:
        return scenario
    steps = tuple(_on(step, name, products()[product]) for step in scenario.at)
    return replace(scenario, product=f"{product}x{count}", at=steps)


def _on(step: Step, name: str, product: Product) -> Step:
    adapt = _SAME_ON_ANOTHER.get((name, step.fault))
    return step if adapt is None or step.clear else replace(step, options=step.options | adapt(product))


def why_not(name: str, product: str) -> str:
    """Return why a product cannot have what a scenario is about, "" where it can."""
    scenario = on(name, product)
    card = world_of(scenario).cards[0]
    for step in scenario.at:
        fault = faults.find(step.fault)
        if fault.usable is not None and (why := fault.usable(card)):
            return _UNUSABLE.get(step.fault, why.removeprefix("has ").removeprefix("a "))
    absent = (_ABSENT[each](products()[product]) for each in (name, name.removesuffix(".healthy")) if each in _ABSENT)
    return next(filter(None, absent), "")


def cell(kind: str, product: str) -> str:
    """Return `seen`, or why the product cannot have it. Raises: LookupError where it can and the run says otherwise."""
    if not why_not(look_alike(kind), product) and (log := _run(look_alike(kind), product).log):
        raise LookupError(f"{look_alike(kind)} on {product} raised {log}")
    if why := why_not(kind, product):
        return why
    log = _run(kind, product).log
    opened = [line.gpu for line in log if line.state == "opened" and line.incident == kind]
    expected = [row.gpu for row in load(kind).expect if row.incident == kind]
    if not opened or any(gpu not in (None, *opened) for gpu in expected):
        raise LookupError(f"{kind} on {product} did not come: {log}")
    return SEEN


def look_alike(kind: str) -> str:
    """Return the name of a kind's healthy scenario."""
    return f"{kind}.healthy"


@cache
def _settings() -> Settings:
    return Settings(kinds=default_settings())


def _run(name: str, product: str) -> Outcome:
    return judge(on(name, product), _settings())


def kinds() -> tuple[str, ...]:
    """Return the kinds that are run, in the catalogue's order."""
    shown = set(of_findings())
    return tuple(kind for kind in KINDS if kind in shown)


def page(cells: Mapping[tuple[str, str], str]) -> str:
    """Return the page of these cells."""
    reasons: dict[str, int] = {}
    lines = [_HEAD, _row(("finding", *products())), _row("---" for _ in ("", *products()))]
    for kind in kinds():
        told = [cells[kind, product] for product in products()]
        shown = [each if each == SEEN else str(reasons.setdefault(each, len(reasons) + 1)) for each in told]
        lines.append(_row((f"`{kind}`", *shown)))
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())]
    lines += ["", "Not simulated, because no GPU has them:", "", "| finding | why | tested in |", "|---|---|---|"]
    lines += [_row((f"`{kind}`", why, f"`{test}`")) for kind, (why, test) in NO_SCENARIO.items()]
    return "\n".join((*lines, ""))


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def main() -> None:
    """Run everything and write the page."""
    wanted = [(kind, product) for kind in kinds() for product in products()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(cell, *zip(*wanted, strict=True), chunksize=16)
        cells = dict(zip(wanted, found, strict=True))
    PAGE.write_text(page(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
