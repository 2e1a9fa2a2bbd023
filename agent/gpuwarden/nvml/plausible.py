"""Which answers of a driver can be true. What is outside physics is no value, whatever return code came with it."""

from __future__ import annotations

from gpuwarden.model.gpu import READINGS, Missing, Scalar, Value

_SENTINELS = frozenset({2**32 - 1, 2**64 - 1, 2**63 - 1})  # "not available", as various drivers write it
_TOP = float(2**62)

_BY_ENDING: tuple[tuple[str, float, float], ...] = (  # first match wins; bounds inclusive, base units
    ("margin_celsius", -60.0, 150.0),
    ("margin_limit_shutdown_celsius", -60.0, 60.0),
    ("margin_limit_slowdown_celsius", -60.0, 60.0),
    ("margin_limit_max_operating_celsius", -60.0, 60.0),
    ("core_celsius", -20.0, 150.0),
    ("memory_celsius", -20.0, 150.0),
    ("_celsius", 30.0, 150.0),  # the rest are limits: one of 0 would be exceeded for ever
    ("speed_ratio", 0.0, 1.5),  # fans are driven above their nominal speed at times
    ("activity_ratio", 0.0, 1.02),  # quotients of totals that the driver does not read at one moment
    ("_ratio", 0.0, 1.0),
    ("speed_rpm", 0.0, 50_000.0),
    ("power_watts", 0.0, 3_000.0),
    ("power_instant_watts", 0.0, 3_000.0),
    ("_watts", 1.0, 3_000.0),
    ("_joules", 0.0, 1e13),  # 3 kW for a hundred years
    ("_seconds", 0.0, 4e9),  # time counters: a hundred years and some
    ("_max_hertz", 1.0, 50e9),
    ("_boost_hertz", 1.0, 50e9),
    ("_hertz", 0.0, 50e9),
    ("nvlink_tx_bytes_per_second", 0.0, 1e13),  # ten times NVLink 5 in one direction
    ("nvlink_rx_bytes_per_second", 0.0, 1e13),
    ("_bytes_per_second", 0.0, 1e12),  # four times PCIe 7.0 x16
    ("_size_bytes", 1.0, float(2**50)),
    ("memory_used_bytes", 0.0, float(2**50)),
    ("memory_free_bytes", 0.0, float(2**50)),
    ("memory_reserved_bytes", 0.0, float(2**50)),
    ("bar1_used_bytes", 0.0, float(2**50)),
    ("performance_state", 0.0, 15.0),
    ("_mode", 0.0, 1.0),
    ("ecc_mode_default", 0.0, 1.0),
    ("display_active", 0.0, 1.0),
    ("row_remap_pending", 0.0, 1.0),
    ("_repair_pending", 0.0, 1.0),
    ("unrepairable_memory", 0.0, 1.0),
    ("row_remap_failed", 0.0, 1.0),
    ("sram_threshold_exceeded", 0.0, 1.0),
    ("retired_pages_pending", 0.0, 1.0),
    ("vgpu_licensed", 0.0, 1.0),
    ("nvlink_up", 0.0, 1.0),
    ("pcie_generation", 1.0, 8.0),
    ("pcie_generation_max", 1.0, 8.0),
    ("pcie_generation_gpu_max", 1.0, 8.0),
    ("_lanes", 1.0, 32.0),
    ("processes", 0.0, 100_000.0),
    ("recovery_action", 0.0, 255.0),
)
_WORKING_RATIO = 0.1
_CLOCKS_UP_HERTZ = 1e9  # no product idles its graphics clock up here: idle is 0.2 to 0.8 GHz


def _bounds(reading: str) -> tuple[float, float]:
    return next(((low, high) for ending, low, high in _BY_ENDING if reading.endswith(ending)), (0.0, _TOP))


BOUNDS: dict[str, tuple[float, float]] = {reading: _bounds(reading) for reading in READINGS}


def plausible(values: dict[str, Value]) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Return one lane's values with IMPLAUSIBLE for what cannot be, and the names of those readings, sorted."""
    checked = {name: _checked(name, value) for name, value in values.items()}
    if _dead_power(checked):
        checked["power_watts"] = Missing.IMPLAUSIBLE
    if _overfull(checked):
        checked["memory_used_bytes"] = Missing.IMPLAUSIBLE
    return checked, tuple(sorted(name for name, value in checked.items() if _refused(value)))


def _refused(value: Value) -> bool:
    return value is Missing.IMPLAUSIBLE or (isinstance(value, tuple) and Missing.IMPLAUSIBLE in value)


def _checked(name: str, value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(_one(name, element) for element in value)
    return _one(name, value)


def _one(name: str, value: Scalar) -> Scalar:
    if isinstance(value, Missing):
        return value
    low, high = BOUNDS.get(name) or _bounds(name)
    return value if value not in _SENTINELS and low <= value <= high else Missing.IMPLAUSIBLE


def _dead_power(values: dict[str, Value]) -> bool:
    """Return whether a GPU claims to draw nothing while it works, or keeps its clocks up. With MIG nothing says how
    busy it is: there the clock alone is the witness."""
    if values.get("power_watts") != 0:
        return False
    busy, clock = values.get("gpu_utilization_ratio"), values.get("graphics_clock_hertz")
    working = isinstance(busy, int | float) and busy >= _WORKING_RATIO
    return working or (isinstance(clock, int | float) and clock >= _CLOCKS_UP_HERTZ)


def _overfull(values: dict[str, Value]) -> bool:
    used, size = values.get("memory_used_bytes"), values.get("memory_size_bytes")
    return isinstance(used, int | float) and isinstance(size, int | float) and used > size
