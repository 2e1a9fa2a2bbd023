"""One simulated GPU: heat, power, clocks, energy and counters, advanced in fixed steps. No clock and no I/O inside.

The model: power follows load and clocks, first order; heat leaves by a resistance that the product's operating points
give and that fans and airflow scale; the card lowers its clocks for power and heat as the real ones do, and says why.
"""

from __future__ import annotations

import dataclasses
import math
import random

from gpuwarden.sim import gpm, mig
from gpuwarden.sim.products import Point, Product, interpolate

STEP_SECONDS = 0.1
REFERENCE_AMBIENT_CELSIUS = 25.0  # the room in which the products' operating points hold
_POWER_LAG_SECONDS = 1.0  # NVML's power is a one-second average
_MEMORY_LAG_SECONDS = 8.0
_STILL_AIR = 0.25  # what a stopped fan still moves, of a fan at full speed
_NOISE_SECONDS = 1.0
_LOWEST_THERMAL_RATIO = 0.45  # of the clock, by the driver's own thermal control
_HW_SLOWDOWN_RATIO = 0.3
_POWER_BRAKE_RATIO = 0.5
_RAMP_DOWN_PER_SECOND = 0.03
_RAMP_UP_PER_SECOND = 0.02
_HYSTERESIS_CELSIUS = 4.0

# clocks event reasons. Source: nvml.h, nvmlClocksEventReason*
GPU_IDLE = 0x001
SW_POWER_CAP = 0x004
HW_SLOWDOWN = 0x008
SW_THERMAL = 0x020
HW_THERMAL = 0x040
POWER_BRAKE = 0x080


@dataclasses.dataclass(slots=True)
class Load:
    """What a card is given to do: an operating point of its product, how much of it, and who does it."""

    point: str
    intensity: float = 1.0  # 0..1
    steady: bool = False  # no noise: the operating point to the letter
    draw: float = 1.0  # of the power that goes with it: a card that waits for others spins at less


@dataclasses.dataclass(slots=True)
class Knobs:
    """What faults change about a card; the defaults are a healthy one. Rebuilt whenever a fault comes or goes."""

    airflow: float = 1.0
    core_target_celsius: float | None = None  # where the core is driven to, whatever it gives off
    core_lag_seconds: float = 10.0
    fans_stopped: tuple[int, ...] = ()
    power_brake: bool = False
    hw_thermal: bool = False  # a hot spot that no sensor shows
    memory_target_celsius: float | None = None
    ghost: bool = False
    clock_ratio: float = 1.0  # of the clock, for no reason that the driver gives
    memory_clock_ratio: float = 1.0
    performance_state: int | None = None  # where a busy card is stuck
    power_limit_watts: float | None = None  # set by somebody
    work_ratio: float = 1.0  # of the work that its clock would get done
    gone: bool = False  # from the PCI bus
    dead: bool = False  # does not answer on the bus: configuration space reads all ones
    return_code: int | None = None  # of every call on this card
    handle_code: int | None = None  # of getting a handle
    codes: dict[str, int] = dataclasses.field(default_factory=dict)  # by C function
    hung: frozenset[str] | None = None  # C functions that never answer; empty means every one
    delay_seconds: float = 0.0
    delayed: frozenset[str] = frozenset()  # C functions that are slow; empty means every one
    crash: frozenset[str] | None = None  # C functions that kill the caller; empty means every one
    implausible: dict[str, int] = dataclasses.field(default_factory=dict)  # raw driver answer, by reading
    link_width_lanes: int | None = None
    link_generation: int | None = None
    slot_generation: int | None = None  # the highest that the slot can do, where that is less than the card
    corrected_per_second: float = 0.0
    corrected_growth: float = 0.0  # by how much that rate rises in a second
    corrected_memory: str = "dram"
    sram_exceeded: bool = False
    ecc_off: bool = False
    aer_per_second: float = 0.0
    replays_per_second: float = 0.0
    recovery_action: int = 0
    remap_pending: bool = False
    remap_failed: bool = False
    banks_low: int = 0
    banks_without: int = 0
    channel_repair: bool = False
    unrepairable: bool = False
    retirement_pending: bool = False
    links_down: frozenset[int] = frozenset()
    nvlink_errors_per_second: dict[tuple[str, int], float] = dataclasses.field(default_factory=dict)  # (error, link)
    fabric_state: int | None = None  # nvmlGpuFabricState_t; None: joined
    fabric_health: int = 0  # the health mask
    persistence_off: bool = False
    aer_by_place: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)  # (bdf, severity): a second
    driver: str = "nvidia"  # who holds the device, "" for nobody
    asleep: bool = False  # suspended by the kernel
    left_bytes: int = 0  # memory still in use after its work has ended
    left_listed: bool = False  # a process still stands behind it
    owner: str = ""  # whose work it is: one of `work.OWNERS`, "" for what is usual on the product


@dataclasses.dataclass(slots=True)
class Counters:
    """What counts since the driver loaded, and falls to 0 when the card is reset or the driver reloaded."""

    energy_joules: float = 0.0
    corrected: dict[str, float] = dataclasses.field(default_factory=lambda: {"dram": 0.0, "sram": 0.0})
    uncorrected: dict[str, float] = dataclasses.field(default_factory=lambda: {"dram": 0.0, "sram": 0.0})
    replays: float = 0.0
    reason_seconds: dict[int, float] = dataclasses.field(default_factory=dict)
    nvlink_tx_bytes: float = 0.0
    nvlink_rx_bytes: float = 0.0
    nvlink_errors: dict[tuple[str, int], float] = dataclasses.field(default_factory=dict)


class Card:
    """The state of one GPU. `slot` is its place in the node and never changes; the NVML index may."""

    def __init__(self, product: Product, slot: int, identity: Identity, load: Load, seed: int) -> None:
        self.product = product
        self.slot = slot
        self.identity = identity
        self.load = load
        self.knobs = Knobs()
        self.counters = Counters()
        self.totals = gpm.Totals()
        self.mig = mig.Partition()
        self.lifetime = Counters()  # ECC only: survives resets
        self.remapped_corrected = 0
        self.remapped_uncorrected = 0
        self.retired: dict[str, list[float]] = {"sbe": [], "dbe": []}  # Unix time of each page's retirement
        self._storm_seconds = 0.0
        self.aer = {"correctable": 0.0, "nonfatal": 0.0, "fatal": 0.0}
        self.port_aer: dict[tuple[str, str], float] = {}  # of the ports above: (bdf, severity)
        self.power_limit_watts = product.power_limit_watts.default
        self.locked_clock_hertz: float | None = None
        self.manual_fans: dict[int, float] = {}
        self.persistence = product.persistence
        self._noise = random.Random(seed * 1000 + slot)  # noqa: S311 - repeatable noise, nothing secret
        self._until_noise = 0.0
        self._wobble = [0.0, 0.0, 0.0]
        self._thermal_ratio = 1.0
        self._hw_slowdown = False
        self.reasons = 0
        self.clock_ratio = 1.0
        self.core_celsius = 0.0
        self.memory_celsius = 0.0
        self.power_watts = 0.0
        self.fan_ratio = 0.0
        self.settle(REFERENCE_AMBIENT_CELSIUS)

    # ---- what the card is doing now

    @property
    def point(self) -> Point:
        """Return the operating point whose clocks and states apply now: the load's, or idle below a hundredth of it."""
        return self.product.points[self.load.point if self._busy else "idle"]

    @property
    def _busy(self) -> bool:
        return (
            self.load.point != "idle" and self.load.intensity > 0.01 and not (self.knobs.ghost or self.knobs.left_bytes)
        )

    def share(self, field: str) -> float:
        """Return a part of the operating point that grows with load, noise left out."""
        idle = float(getattr(self.product.points["idle"], field))
        if not self._busy:
            return idle
        return idle + (float(getattr(self.point, field)) - idle) * self.load.intensity

    @property
    def gpu_utilization(self) -> float:
        """Return the utilisation as a ratio, with noise; a card with a stuck counter says 1."""
        if self.knobs.ghost:
            return 1.0
        return self._wobbled(self.share("gpu_utilization"), 0)

    @property
    def memory_utilization(self) -> float:
        """Return the memory utilisation as a ratio, with noise."""
        return self._wobbled(self.share("memory_utilization"), 1)

    def _wobbled(self, value: float, which: int) -> float:
        if not self._busy or self.load.steady or value <= 0:
            return value
        return min(1.0, max(0.0, value + 0.015 * self._wobble[which]))

    @property
    def clock_hertz(self) -> float:
        """Return the graphics clock, in the steps of 15 MHz that the cards use."""
        full = self.point.graphics_clock_hertz
        if self.clock_ratio >= 1.0 or not self._busy:
            return full
        return max(15e6, round(full * self.clock_ratio / 15e6) * 15e6)

    @property
    def memory_clock_hertz(self) -> float:
        """Return the memory clock."""
        return self.point.memory_clock_hertz * (self.knobs.memory_clock_ratio if self._busy else 1.0)

    @property
    def performance_state(self) -> int:
        """Return the P-state: the operating point's, or the one in which a busy card is stuck."""
        stuck = self.knobs.performance_state
        return self.point.performance_state if stuck is None or not self._busy else stuck

    @property
    def iterations_per_second(self) -> float:
        """Return what the card gets done, in a measure of its own: 100 at full load and full clock."""
        if not self._busy:
            return 0.0
        done = self.load.intensity * self.clock_hertz / self.point.graphics_clock_hertz
        return 100.0 * done * self.knobs.work_ratio

    @property
    def limit_watts(self) -> float:
        """Return the power limit in force."""
        return self.knobs.power_limit_watts or self.power_limit_watts

    @property
    def fans(self) -> tuple[float, ...]:
        """Return the speed each fan is asked for, as a ratio; a fan that is blocked is asked all the same."""
        return tuple(self.manual_fans.get(fan, self.fan_ratio) for fan in range(self.product.fans))

    # ---- time

    def settle(self, ambient_celsius: float) -> None:
        """Put the card where it would be after hours of its present load."""
        self.clock_ratio, self.reasons = 1.0, self._reasons_now(1.0)
        self.power_watts = self._target_watts(1.0)
        self.core_celsius = self._steady_celsius(ambient_celsius)
        for _ in range(60):  # the fan depends on the temperature it makes; the curve is gentle, so this settles
            self.fan_ratio = self._automatic_fan()
            self.core_celsius += 0.3 * (self._steady_celsius(ambient_celsius) - self.core_celsius)
        self.memory_celsius = self._steady_memory()

    def step(self, ambient_celsius: float) -> None:
        """Advance by STEP_SECONDS."""
        seconds = STEP_SECONDS
        self._until_noise -= seconds
        if self._until_noise <= 0:
            self._until_noise += _NOISE_SECONDS
            self._wobble = [max(-2.0, min(2.0, self._noise.gauss(0.0, 1.0))) for _ in self._wobble]
        self._control(seconds)
        target = self._target_watts(self.clock_ratio)
        if self._busy and not self.load.steady:
            target *= 1.0 + 0.004 * self._wobble[2]
        self.power_watts += (target - self.power_watts) * seconds / _POWER_LAG_SECONDS
        self.core_celsius = max(self.core_celsius + self._warming(ambient_celsius) * seconds, ambient_celsius)
        self.memory_celsius += (self._steady_memory() - self.memory_celsius) * seconds / _MEMORY_LAG_SECONDS
        self.fan_ratio += (self._automatic_fan() - self.fan_ratio) * min(1.0, seconds / 3.0)
        self._count(seconds)

    def reset(self) -> None:
        """Start the counters that a GPU reset or a driver reload clears, and take what only lasted till then."""
        if self.knobs.remap_pending:
            self.remapped_uncorrected += 1
        self.counters = Counters()
        self.power_limit_watts = self.product.power_limit_watts.default
        self.locked_clock_hertz = None
        self.manual_fans.clear()
        self._thermal_ratio = 1.0

    def corrected_errors(self, count: float, where: str = "dram") -> None:
        """Count corrected ECC errors."""
        self.counters.corrected[where] += count
        self.lifetime.corrected[where] += count

    def uncorrected_errors(self, count: float, where: str = "dram") -> None:
        """Count uncorrected ECC errors."""
        self.counters.uncorrected[where] += count
        self.lifetime.uncorrected[where] += count

    def pcie_errors(self, bdf: str, severity: str, count: float) -> None:
        """Count PCIe errors of the card's own function or of a port above it."""
        if bdf == self.identity.bdf:
            self.aer[severity] += count
        else:
            self.port_aer[bdf, severity] = self.port_aer.get((bdf, severity), 0.0) + count

    @property
    def overheated(self) -> bool:
        """Return whether the card has reached the temperature at which it shuts itself down."""
        return self.core_celsius >= self.product.thresholds_celsius.shutdown

    # ---- physics

    def _control(self, seconds: float) -> None:
        """Lower or raise the clocks for heat, power and brake, and remember why."""
        limits = self.product.thresholds_celsius
        if self.core_celsius >= limits.max_operating:
            self._thermal_ratio = max(_LOWEST_THERMAL_RATIO, self._thermal_ratio - _RAMP_DOWN_PER_SECOND * seconds)
        elif self.core_celsius < limits.max_operating - 2.0:
            self._thermal_ratio = min(1.0, self._thermal_ratio + _RAMP_UP_PER_SECOND * seconds)
        if self.core_celsius >= limits.slowdown or self.knobs.hw_thermal:
            self._hw_slowdown = True
        elif self.core_celsius < limits.slowdown - _HYSTERESIS_CELSIUS:
            self._hw_slowdown = False
        ratio = min(self._thermal_ratio, self._lock_ratio(), self._power_ratio())
        if self._hw_slowdown:
            ratio = min(ratio, _HW_SLOWDOWN_RATIO)
        if self.knobs.power_brake:
            ratio = min(ratio, _POWER_BRAKE_RATIO)
        self.clock_ratio = ratio * self.knobs.clock_ratio
        self.reasons = self._reasons_now(ratio)

    def _reasons_now(self, ratio: float) -> int:
        reasons = 0
        if self._hw_slowdown:
            reasons |= HW_SLOWDOWN | HW_THERMAL
        if self.knobs.power_brake:
            reasons |= HW_SLOWDOWN | POWER_BRAKE
        if not self._busy:
            return reasons or GPU_IDLE
        if self._thermal_ratio < 1.0:
            reasons |= SW_THERMAL
        if ratio < 1.0 and self._power_ratio() <= ratio:
            reasons |= SW_POWER_CAP
        return reasons

    def _lock_ratio(self) -> float:
        if self.locked_clock_hertz is None:
            return 1.0
        return min(1.0, self.locked_clock_hertz / self.point.graphics_clock_hertz)

    def _power_ratio(self) -> float:
        """Return the clock ratio at which the power limit is just kept."""
        idle, wanted = self.product.points["idle"].power_watts, self._target_watts(1.0)
        if wanted <= self.limit_watts or wanted <= idle:
            return 1.0
        return max(0.1, math.sqrt((max(self.limit_watts, idle) - idle) / (wanted - idle)))

    def _target_watts(self, clock_ratio: float) -> float:
        """Return the power of the present load at a share of its clock: work per second goes with the square."""
        idle = self.product.points["idle"].power_watts
        return idle + (self.share("power_watts") - idle) * self.load.draw * clock_ratio**2

    def _rise(self, watts: float) -> float:
        """Return how far above the reference room the core settles at this power, by the product's points."""
        points = sorted(self.product.points.values(), key=lambda point: point.power_watts)
        curve = [(0.0, 0.0), *((p.power_watts, p.core_celsius - REFERENCE_AMBIENT_CELSIUS) for p in points)]
        top_watts, top_rise = curve[-1]
        if watts <= top_watts:
            return interpolate(curve, watts)
        return top_rise * watts / top_watts

    def _resistance(self) -> float:
        """Return kelvin per watt now: the reference one, scaled by how much air moves against how much would."""
        watts = max(self.power_watts, 1.0)
        rise = self._rise(watts)
        scale = 1.0 / self.knobs.airflow
        if self.product.fans:
            there = interpolate(self.product.fan_curve, REFERENCE_AMBIENT_CELSIUS + rise)
            scale *= _moved(there) / self._air_moved()
        return max(rise, 0.01) * scale / watts

    def _warming(self, ambient_celsius: float) -> float:
        """Return how fast the core's temperature rises, in kelvin per second."""
        if self.knobs.core_target_celsius is not None:
            return (self.knobs.core_target_celsius - self.core_celsius) / self.knobs.core_lag_seconds
        leaving = (self.core_celsius - ambient_celsius) / self._resistance()
        return (self.power_watts - leaving) / self.product.heat_capacity_joules_per_kelvin

    def _air_moved(self) -> float:
        speeds = [0.0 if fan in self.knobs.fans_stopped else speed for fan, speed in enumerate(self.fans)]
        return sum(map(_moved, speeds)) / len(speeds)

    def _automatic_fan(self) -> float:
        return interpolate(self.product.fan_curve, self.core_celsius) if self.product.fans else 0.0

    def _steady_celsius(self, ambient_celsius: float) -> float:
        return ambient_celsius + self.power_watts * self._resistance()

    def _steady_memory(self) -> float:
        if self.knobs.memory_target_celsius is not None:
            return self.knobs.memory_target_celsius
        idle, busy = self.product.points["idle"], self.product.points[self.product.busy]
        if idle.memory_celsius is None or busy.memory_celsius is None:
            return 0.0
        share = (self.power_watts - idle.power_watts) / (busy.power_watts - idle.power_watts)
        cold, hot = idle.memory_celsius - idle.core_celsius, busy.memory_celsius - busy.core_celsius
        return self.core_celsius + cold + (hot - cold) * min(1.0, max(0.0, share))

    def _count(self, seconds: float) -> None:
        counters, knobs = self.counters, self.knobs
        counters.energy_joules += self.power_watts * seconds
        reasons = self.reasons
        for bit in (SW_POWER_CAP, SW_THERMAL, HW_THERMAL, POWER_BRAKE):
            if reasons & bit:
                counters.reason_seconds[bit] = counters.reason_seconds.get(bit, 0.0) + seconds
        self._storm_seconds = self._storm_seconds + seconds if knobs.corrected_growth else 0.0
        rate = knobs.corrected_per_second + knobs.corrected_growth * self._storm_seconds
        if rate:
            self.corrected_errors(rate * seconds, knobs.corrected_memory)
        counters.replays += knobs.replays_per_second * seconds
        self.aer["correctable"] += knobs.aer_per_second * seconds
        gpm.count(self, seconds)
        for which, per_second in knobs.nvlink_errors_per_second.items():
            counters.nvlink_errors[which] = counters.nvlink_errors.get(which, 0.0) + per_second * seconds
        for (bdf, severity), per_second in knobs.aer_by_place.items():
            self.pcie_errors(bdf, severity, per_second * seconds)
        mig.count(self, seconds)
        if self.product.nvlinks:
            moved = self.share("nvlink_bytes_per_second") * seconds
            counters.nvlink_tx_bytes += moved
            counters.nvlink_rx_bytes += 0.97 * moved


def _moved(fan: float) -> float:
    """Return the air a fan moves at a speed ratio, of what it moves at full speed; some moves by itself."""
    return _STILL_AIR + (1.0 - _STILL_AIR) * fan


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Who a simulated GPU is."""

    uuid: str
    bdf: str
    serial: str
    minor: int
    pci_slot: str
    ports: tuple[str, ...] = ()  # the PCIe ports above it, the root port first
