"""The products that can be simulated, as frozen facts: captured readings where there are any, else derived ones.

Sources: data/gpu_readings.csv (nvidia-smi captures, idle and under load) and data/products.toml (the rest).
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Literal

import msgspec

from gpuwarden.errors import InputError

MAX_GPUS = 16
_SPEC = re.compile(r"(?P<product>[a-z0-9]+?)(?:x(?P<count>\d{1,3}))?")


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operating point of a card, in a room of 25 C with its own fans or the chassis' air."""

    power_watts: float
    core_celsius: float
    graphics_clock_hertz: float
    memory_clock_hertz: float
    video_clock_hertz: float
    performance_state: int
    pcie_generation: int
    memory_celsius: float | None = None
    gpu_utilization: float = 0.0
    memory_utilization: float = 0.0
    encoder_utilization: float = 0.0
    memory_used_bytes: float = 0.0
    pcie_bytes_per_second: float = 0.0
    nvlink_bytes_per_second: float = 0.0


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Core temperatures in Celsius at which the card acts; `memory_max` and `target` where it reports them."""

    shutdown: float
    slowdown: float
    max_operating: float
    memory_max: float | None = None
    target: float | None = None


class PowerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power limits in watts."""

    default: float
    min: float
    max: float


class Product(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one product is, can say and does. Absent capabilities answer NOT_SUPPORTED."""

    name: str
    driver: str
    architecture: int  # nvmlDeviceArchitecture_t
    compute_capability: tuple[int, int]
    pci_class: int
    pci_device_id: int
    pci_subsystem_id: int
    vbios: str
    bar1_size_bytes: int
    threshold_style: Literal["absolute", "margin"]
    thresholds_celsius: Thresholds
    video_clock_max_hertz: float
    heat_capacity_joules_per_kelvin: float
    power_limit_watts: PowerLimits
    graphics_clock_max_hertz: float
    memory_clock_max_hertz: float
    memory_size_bytes: int
    memory_reserved_bytes: float
    pcie_generation_max: int
    points: dict[str, Point]
    captured: str = ""
    derived: bool = False
    board_part: str = ""
    inforom_oem: str = ""
    inforom_ecc: str = ""
    serials: bool = False
    power_average: bool = False
    customer_boost_hertz: float | None = None
    ecc: Literal["none", "off", "on"] = "none"
    sram_status: bool = False
    row_remap_banks: int = 0
    repairs: bool = False  # answers for channel and TPC repair, and for memory beyond repair
    retired_pages: bool = False
    mig: bool = False
    mig_gigabytes: int = 0  # what the names of its profiles count
    mig_profiles: tuple[str, ...] = ()  # how it is partitioned when a scenario does not say
    persistence: bool = False
    desktop: bool = False  # idle, its memory is that of a picture on a screen
    nvlinks: int = 0
    nvlink_megabytes_per_second: int = 0
    fabric: bool = False
    fans: int = 0
    fan_rpm_max: float = 0.0
    fan_curve: tuple[tuple[float, float], ...] = ()
    pcie_width_lanes: int = 16

    @property
    def busy(self) -> str:
        """Return the operating point a working card runs at: `full` where the capture's load was not a full one."""
        return "full" if "full" in self.points else "load"


Row = tuple[float, float]
"""Idle and load value of one captured reading."""


@functools.cache
def captured_readings() -> dict[tuple[str, str], dict[str, Row]]:
    """Return the captured readings by (product, driver), then by reading. A reading not there was not supported."""
    text = _data("gpu_readings.csv")
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in csv.DictReader(text.splitlines()):
        readings = found.setdefault((row["product"], row["driver"]), {})
        readings[row["reading"]] = (float(row["idle"]), float(row["load"]))
    return found


@functools.cache
def products() -> dict[str, Product]:
    """Return every product by its short name."""
    table = msgspec.toml.decode(_data("products.toml"))
    return {short: msgspec.convert(_with_capture(row), Product) for short, row in table.items()}


def parse_spec(spec: str) -> tuple[str, int]:
    """Return short name and count of a spec such as `rtx4090x8` (count 1 where none is given).

    Raises: InputError naming the known products.
    """
    found = _SPEC.fullmatch(spec.strip().lower())
    if found is None or found["product"] not in products():
        raise InputError(f"unknown product in {spec!r}: known are {', '.join(products())}, each as PRODUCTxCOUNT")
    count = int(found["count"] or 1)
    if not 1 <= count <= MAX_GPUS:
        raise InputError(f"{spec!r}: between 1 and {MAX_GPUS} GPUs can be simulated")
    return found["product"], count


_FIELD_BY_READING = {  # Point field <- captured reading
    "power_watts": "power_draw_watts",
    "core_celsius": "temperature_gpu",
    "memory_celsius": "temperature_memory",
    "graphics_clock_hertz": "clocks_current_graphics_clock_hz",
    "memory_clock_hertz": "clocks_current_memory_clock_hz",
    "video_clock_hertz": "clocks_current_video_clock_hz",
    "performance_state": "pstate",
    "pcie_generation": "pcie_link_gen_current",
    "gpu_utilization": "utilization_gpu_ratio",
    "memory_utilization": "utilization_memory_ratio",
    "encoder_utilization": "utilization_encoder_ratio",
    "memory_used_bytes": "memory_used_bytes",
}
_WHOLE = frozenset({"performance_state", "pcie_generation"})
_LOADED_PCIE_BYTES_PER_SECOND = 1.4e9  # throughput was not captured; a 4080 SUPER encoding received about that
_LOADED_NVLINK_BYTES_PER_SECOND = 2.2e10


def _with_capture(row: dict[str, object]) -> dict[str, object]:
    """Return a product's row with what its capture says filled in."""
    if "captured" not in row:
        return row
    readings = captured_readings()[str(row["captured"]), str(row["driver"])]

    def idle(name: str) -> float:
        return readings[name][0]

    points = dict(row["points"]) if isinstance(row.get("points"), dict) else {}  # type: ignore[call-overload]
    for column, name in enumerate(("idle", "load")):
        points[name] = _point(readings, column)
    points["load"] |= {"pcie_bytes_per_second": _LOADED_PCIE_BYTES_PER_SECOND}
    if row.get("nvlinks"):
        points["load"] |= {"nvlink_bytes_per_second": _LOADED_NVLINK_BYTES_PER_SECOND}
    facts: dict[str, object] = {
        "points": points,
        "power_limit_watts": {bound: idle(f"power_{bound}_limit_watts") for bound in ("default", "min", "max")},
        "graphics_clock_max_hertz": idle("clocks_max_graphics_clock_hz"),
        "memory_clock_max_hertz": idle("clocks_max_memory_clock_hz"),
        "memory_size_bytes": int(idle("memory_total_bytes")),
        "memory_reserved_bytes": idle("memory_reserved_bytes"),
        "pcie_generation_max": int(idle("pcie_link_gen_max")),
        "pcie_width_lanes": int(idle("pcie_link_width_max")),
        "power_average": "power_draw_average_watts" in readings,
        "ecc": "on" if "ecc_mode_current" in readings else "none",
        "row_remap_banks": int(readings.get("remapped_rows_histogram_max", (0, 0))[0]),
        "sram_status": "ecc_errors_uncorrected_aggregate_sram_threshold_exceeded" in readings,
        "mig": "mig_mode_current" in readings,
        "persistence": bool(idle("persistence_mode")),
        "desktop": bool(idle("display_active")),
        "inforom_oem": str(readings["inforom_oem"][0]) if "inforom_oem" in readings else "",
        "inforom_ecc": str(readings["inforom_ecc"][0]) if "inforom_ecc" in readings else "",
    }
    return facts | {key: value for key, value in row.items() if key != "points"}


def _point(readings: dict[str, Row], column: int) -> dict[str, float]:
    present = ((field, readings[name][column]) for field, name in _FIELD_BY_READING.items() if name in readings)
    return {field: int(value) if field in _WHOLE else value for field, value in present}


def interpolate(curve: Iterable[tuple[float, float]], at: float) -> float:
    """Return the value of a piecewise linear curve (rising x), held at its ends."""
    before: tuple[float, float] | None = None
    for x, y in curve:
        if at < x:
            if before is None:
                return y
            return before[1] + (y - before[1]) * (at - before[0]) / (x - before[0])
        before = (x, y)
    assert before is not None
    return before[1]


def _data(name: str) -> str:
    return resources.files("gpuwarden.sim").joinpath("data", name).read_text(encoding="utf-8")
