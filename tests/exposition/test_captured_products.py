"""What each captured card reports is exposed, and what it does not report is not: against data/gpu_readings.csv.

A reading that the file has no row for was "N/A" or "[Not Supported]" on that card. The cards are simulated from the
same file, and read through the real driver table and engine.
"""

from __future__ import annotations

import functools
import math

import pytest
from msgspec.structs import replace

from gpuwarden.exposition.native import families
from gpuwarden.model.gpu import CLOCKS_EVENT_REASONS
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.settings import Settings
from gpuwarden.sim.judge import judge
from gpuwarden.sim.products import Row, captured_readings, products
from gpuwarden.sim.scenario import load
from support.nodes import EXTRAS

Labels = tuple[tuple[str, str], ...]
Shown = tuple[str, Labels]
_SENTINELS = {2.0**31 - 1, 2.0**32 - 1, 2.0**63 - 1, 2.0**64 - 1, 2.0**63, 2.0**64, -1.0, 65535.0}


def shown(family: str, **labels: str) -> Shown:
    """Return a series by family and labels, those of the GPU left out."""
    return f"gpuwarden_gpu_{family}", tuple(sorted(labels.items()))


SERIES_OF: dict[str, Shown] = {  # reading of the capture -> the series that shows it
    "clocks_current_graphics_clock_hz": shown("clock_hertz", domain="graphics"),
    "clocks_current_memory_clock_hz": shown("clock_hertz", domain="memory"),
    "clocks_current_sm_clock_hz": shown("clock_hertz", domain="sm"),
    "clocks_current_video_clock_hz": shown("clock_hertz", domain="video"),
    "clocks_max_graphics_clock_hz": shown("clock_max_hertz", domain="graphics"),
    "clocks_max_memory_clock_hz": shown("clock_max_hertz", domain="memory"),
    "clocks_max_sm_clock_hz": shown("clock_max_hertz", domain="sm"),
    **{
        f"clocks_event_reasons_{name}": shown("clocks_event_active", reason=name)
        for name in CLOCKS_EVENT_REASONS.values()
        if name != "display_clock_setting"  # not in the captures' own list
    },
    **{
        f"clocks_event_reasons_counters_{name}_seconds": shown("clocks_event_seconds_total", reason=name)
        for name in (
            "hw_power_brake_slowdown",
            "hw_thermal_slowdown",
            "sw_power_cap",
            "sw_thermal_slowdown",
            "sync_boost",
        )
    },
    "display_active": shown("display_active"),
    **{
        f"ecc_errors_{kind}_{span}_{memory}": shown(family, type=kind, memory=memory)
        for kind in ("corrected", "uncorrected")
        for span, family in (("volatile", "ecc_errors_total"), ("aggregate", "ecc_errors_lifetime"))
        for memory in ("dram", "sram")
    },
    "ecc_errors_uncorrected_aggregate_sram_threshold_exceeded": shown("sram_ecc_threshold_exceeded"),
    "ecc_mode_current": shown("ecc_mode"),
    "enforced_power_limit_watts": shown("power_limit_watts", bound="enforced"),
    "power_default_limit_watts": shown("power_limit_watts", bound="default"),
    "power_max_limit_watts": shown("power_limit_watts", bound="max"),
    "power_min_limit_watts": shown("power_limit_watts", bound="min"),
    "power_draw_watts": shown("power_watts"),
    "fabric_state": shown("fabric_state", state="completed"),
    "fan_speed_ratio": shown("fan_speed_ratio", fan="0"),
    "gpu_recovery_action": shown("recovery_action", action="none"),
    "memory_free_bytes": shown("memory_bytes", state="free"),
    "memory_reserved_bytes": shown("memory_bytes", state="reserved"),
    "memory_used_bytes": shown("memory_bytes", state="used"),
    "memory_total_bytes": shown("memory_size_bytes"),
    "mig_mode_current": shown("mig_mode"),
    "pcie_link_gen_current": shown("pcie_link_generation", bound="current"),
    "pcie_link_gen_max": shown("pcie_link_generation", bound="max"),
    "pcie_link_width_current": shown("pcie_link_width_lanes", bound="current"),
    "pcie_link_width_max": shown("pcie_link_width_lanes", bound="max"),
    "persistence_mode": shown("persistence_mode"),
    "pstate": shown("performance_state"),
    "remapped_rows_correctable": shown("row_remaps_total", cause="corrected"),
    "remapped_rows_uncorrectable": shown("row_remaps_total", cause="uncorrected"),
    "remapped_rows_failure": shown("row_remap_failed"),
    "remapped_rows_pending": shown("row_remap_pending"),
    **{
        f"remapped_rows_histogram_{spare}": shown("row_remap_banks", spare=spare)
        for spare in ("max", "high", "partial", "low", "none")
    },
    "temperature_gpu": shown("temperature_celsius", sensor="core"),
    "temperature_gpu_tlimit": shown("temperature_margin_celsius"),
    "temperature_memory": shown("temperature_celsius", sensor="memory"),
    **{
        f"utilization_{engine}_ratio": shown("utilization_ratio", engine=engine)
        for engine in ("gpu", "memory", "encoder", "decoder", "jpeg", "ofa")
    },
}
FACTS = (  # what does not depend on how long and how hard the card worked: the number must be the capture's
    "clocks_max_graphics_clock_hz",
    "clocks_max_memory_clock_hz",
    "clocks_max_sm_clock_hz",
    "ecc_mode_current",
    "power_default_limit_watts",
    "power_max_limit_watts",
    "power_min_limit_watts",
    "memory_total_bytes",
    "mig_mode_current",
    "pcie_link_gen_max",
    "pcie_link_width_max",
    "persistence_mode",
    "remapped_rows_histogram_max",
)
CAPTURED = sorted(short for short, product in products().items() if product.captured)


@functools.cache
def exposed(product: str) -> dict[Shown, float]:
    """Return what a healthy simulated card of a product exposes about itself, after 25 seconds."""
    scenario = replace(load(product), seconds=25.0)
    state = judge(scenario, Settings(kinds=default_settings())).state
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k not in ("gpu", "uuid")))): sample.value
        for metric in families(state, EXTRAS)
        for sample in metric.samples
        if "uuid" in sample.labels
    }


def capture_of(product: str) -> dict[str, Row]:
    """Return the captured readings of a product."""
    known = products()[product]
    return captured_readings()[known.captured, known.driver]


@pytest.mark.parametrize("product", CAPTURED)
def test_what_a_card_reports_is_exposed(product: str) -> None:
    """No supported reading is lost on the way."""
    supported = SERIES_OF.keys() & capture_of(product).keys()
    assert sorted(name for name in supported if SERIES_OF[name] not in exposed(product)) == []


@pytest.mark.parametrize("product", CAPTURED)
def test_what_a_card_does_not_report_is_absent(product: str) -> None:
    """Neither 0 nor anything else in its place."""
    unsupported = SERIES_OF.keys() - capture_of(product).keys()
    assert sorted(name for name in unsupported if SERIES_OF[name] in exposed(product)) == []


@pytest.mark.parametrize("product", CAPTURED)
@pytest.mark.parametrize("fact", FACTS)
def test_facts_have_the_captured_value(product: str, fact: str) -> None:
    """Units and scale are right: hertz, watts, bytes."""
    captured = capture_of(product).get(fact)
    assert exposed(product).get(SERIES_OF[fact]) == (None if captured is None else pytest.approx(captured[1]))


def test_each_driver_of_a_card_reports_the_same() -> None:
    """A card captured with two drivers has one list of what it supports: which one is simulated makes no difference."""
    lists: dict[str, set[frozenset[str]]] = {}
    for (product, _), readings in captured_readings().items():
        lists.setdefault(product, set()).add(frozenset(SERIES_OF.keys() & readings.keys()))
    assert {product: len(found) for product, found in lists.items() if len(found) > 1} == {}


def test_every_capture_is_simulated() -> None:
    """No product of the file is left out of the tests above."""
    assert {product for product, _ in captured_readings()} == {products()[short].captured for short in CAPTURED}


@pytest.mark.parametrize("product", sorted(products()))
def test_no_product_exposes_a_sentinel(product: str) -> None:
    """What drivers write for "not available" is never a value, captured card or not."""
    values = exposed(product)
    assert len(values) > 50
    odd = {key: value for key, value in values.items() if value in _SENTINELS or not math.isfinite(value)}
    assert odd == {}
