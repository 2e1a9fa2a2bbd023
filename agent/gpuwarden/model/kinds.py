"""The closed catalogue of finding kinds: one row per kind, the defaults of its judgement beside it.

Xid kinds come from the Xid catalogue. Thresholds carry their unit in the key.
"""

from __future__ import annotations

import msgspec

from gpuwarden.model.settings import KindSettings
from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.xid import xid_findings

_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_APPLICATION_LATCH_SECONDS = 3600.0
_NVML = "nvml.h 13.5, return codes"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One finding kind: `name` is `room.what`; `title` fits a page's first line; `meaning` is one or two sentences."""

    name: str
    title: str
    meaning: str
    defaults: KindSettings
    source: str = ""

    @property
    def room(self) -> str:
        """Return the room, which is also the file in `checks/`."""
        return self.name.partition(".")[0]


def _kind(
    name: str,
    severity: Severity,
    title: str,
    meaning: str,
    *,
    hold: float = 0.0,
    clear: float = 0.0,
    event: EventClass | None = None,
    source: str = "",
    **thresholds: float,
) -> Kind:
    """Return one row; hold and clear are seconds."""
    return Kind(
        name=name,
        title=title,
        meaning=meaning,
        source=source,
        defaults=KindSettings(
            severity=severity,
            hold_seconds=hold,
            clear_seconds=clear,
            latch_seconds=_APPLICATION_LATCH_SECONDS if event is EventClass.APPLICATION else None,
            event_class=event,
            thresholds=thresholds,
        ),
    )


_PRESENCE = (
    _kind(
        "presence.gpu_missing",
        _CRITICAL,
        "GPU missing",
        "A GPU of the inventory is seen neither by NVML nor on the PCI bus, or fewer GPUs are there than expected.",
    ),
    _kind(
        "presence.gpu_lost",
        _CRITICAL,
        "GPU lost",
        "The driver no longer reaches the GPU.",
        source=f"{_NVML} 15 (GPU_IS_LOST), 28, and 999 on handle creation",
    ),
    _kind(
        "presence.gpu_needs_reset",
        _CRITICAL,
        "GPU needs a reset",
        "The driver refuses to use the GPU before it is reset.",
        source=f"{_NVML} 16",
    ),
    _kind(
        "presence.driver_not_loaded",
        _CRITICAL,
        "NVIDIA driver not loaded",
        "There are NVIDIA GPUs, or there were, and no driver answers.",
        source=f"{_NVML} 9, 12",
    ),
    _kind(
        "presence.nvml_blocked",
        _CRITICAL,
        "NVML does not answer",
        "A call sits in the driver past its deadline: of "
        "one GPU where the finding names one, of the whole session otherwise.",
    ),
    _kind(
        "presence.nvml_crashed",
        _WARNING,
        "NVML worker crashed",
        "The process that talks to the driver died and was "
        "replaced; with a lost GPU the library itself is known to crash.",
        remember_seconds=60.0,
    ),
    _kind(
        "presence.library_mismatch",
        _CRITICAL,
        "Driver and library differ",
        "The NVML library and the loaded kernel "
        "module are of different versions: no new GPU work can start before a driver reload or reboot.",
        source=f"{_NVML} 18, and /sys/module/nvidia/version against a session opened under it",
    ),
    _kind(
        "presence.access_lost",
        _CRITICAL,
        "No permission to the GPU",
        "The GPU is on the bus and bound to the driver, "
        "but we may not talk to it: a container that lost its device rules, not a dead card.",
        source=f"{_NVML} 4, 17, and 999 at session start or of a card that is fine on the bus",
    ),
    _kind(
        "presence.bound_elsewhere",
        _INFO,
        "GPU bound to another driver",
        "The GPU belongs to vfio-pci or nouveau: passed through or not ours, never missing.",
    ),
    _kind(
        "presence.insufficient_power",
        _CRITICAL,
        "GPU power cable missing",
        "The GPU reports that its auxiliary power is not connected.",
        source=f"{_NVML} 8",
    ),
    _kind(
        "presence.irq_trouble",
        _CRITICAL,
        "GPU interrupt trouble",
        "The kernel has a problem with the GPU's interrupt.",
        source=f"{_NVML} 11",
    ),
    _kind(
        "presence.inforom_corrupt",
        _WARNING,
        "InfoROM corrupt",
        "The GPU's own configuration memory is damaged.",
        source=f"{_NVML} 14",
    ),
    _kind(
        "presence.init_failed",
        _CRITICAL,
        "Driver could not start the GPU",
        "The driver's initialisation of the GPU failed (RmInitAdapter).",
        event=EventClass.RESET,
    ),
    _kind(
        "presence.recovery_action",
        _CRITICAL,
        "Driver asks for a recovery",
        "The driver says what this GPU needs before it can be used again.",
        source="NVML field 230, NVIDIA GPU memory error management",
    ),
)
_THERMAL = (
    _kind(
        "thermal.core_near_limit",
        _WARNING,
        "GPU hot",
        "The core is within a few degrees of where it slows down.",
        hold=60.0,
        clear=30.0,
        near_celsius=5.0,
        fixed_limit_celsius=90.0,
        hysteresis_celsius=2.0,
    ),
    _kind(
        "thermal.core_over_limit",
        _CRITICAL,
        "GPU over its temperature limit",
        "The core is at or above its slowdown temperature.",
        hold=10.0,
        clear=30.0,
        fixed_limit_celsius=95.0,
    ),
    _kind(
        "thermal.memory_over_limit",
        _CRITICAL,
        "GPU memory over its temperature limit",
        "The memory is at or above its own limit.",
        hold=30.0,
        clear=30.0,
        fixed_limit_celsius=105.0,
    ),
    _kind(
        "thermal.hw_slowdown",
        _CRITICAL,
        "Hardware thermal slowdown",
        "The GPU halves its clocks or worse to protect itself from heat.",
        clear=120.0,
        share_ratio=0.1,
        least_seconds=10.0,
        source="NVML field 270 and reason bit 0x40; 0.6 of minutes "
        "over 10 min is a widespread rule, this one is stricter because the counter is exact",
    ),
    _kind(
        "thermal.sw_slowdown",
        _WARNING,
        "Software thermal slowdown",
        "The driver lowers clocks to hold the target temperature for a good part of the time.",
        clear=60.0,
        share_ratio=0.1,
        least_seconds=900.0,
        source="throughput rule 2: more than a tenth of 15 min; NVML field 269 or reason bit 0x20",
    ),
    _kind(
        "thermal.fan_suspect",
        _WARNING,
        "Fan suspect",
        "A fan stands still on a warm GPU, or the temperature rises at steady power although the fans were told to run "
        "fast: a blocked fan still reads as running.",
        hold=20.0,
        clear=300.0,
        high_ratio=0.8,
        rise_celsius_per_minute=3.0,
        stopped_celsius=60.0,
        source="nvml.h: the reported fan speed is the intended one; 0 rpm above 60 C and a rise at full speed are the "
        "only signs of a fan fault that can be read",
    ),
    _kind(
        "thermal.room_hot",
        _CRITICAL,
        "Room hot",
        "Most GPUs of this host are near their limits together: the room, not a card.",
        hold=60.0,
        clear=120.0,
        share_ratio=0.6,
        at_least_gpus=3.0,
    ),
)
_POWER = (
    _kind(
        "power.power_brake",
        _CRITICAL,
        "Power brake",
        "The power supply or the rack tells the GPU to slow down.",
        clear=120.0,
        share_ratio=0.05,
        least_seconds=10.0,
        source="NVML field 271 and reason bit 0x80",
    ),
    _kind(
        "power.capped_below_default",
        _INFO,
        "Power limit below default",
        "Somebody set a lower power limit than the card's default.",
        hold=60.0,
        share_ratio=0.99,
    ),
)
_MEMORY = (
    _kind(
        "memory.ecc_uncorrected",
        _CRITICAL,
        "Uncorrected ECC errors",
        "Memory errors that could not be corrected "
        "since the driver loaded: results of the job that met them are wrong.",
    ),
    _kind(
        "memory.ecc_corrected_storm",
        _WARNING,
        "Corrected ECC errors in number",
        "Corrected memory errors come fast enough to announce a failing part: critical at the rate of one that is "
        "failing now, info while the rate only grows towards the limit. Or there were so many since the driver loaded "
        "that the rate no longer matters.",
        clear=300.0,
        errors_per_hour=100.0,
        failing_errors_per_second=10.0,
        ramp_errors=10.0,
        ramp_ratio=3.0,
        ramp_horizon_hours=24.0,
        dram_errors=20_000_000.0,
        sram_errors=10_000.0,
        source="common alert 100/h; failing HBM showed 4,600 to 17,700 a second under load and none at idle; totals as "
        "in Azure's node health checks",
    ),
    _kind(
        "memory.sram_threshold",
        _CRITICAL,
        "SRAM error threshold exceeded",
        "Uncorrected SRAM errors passed NVIDIA's limit for a field diagnostic.",
        source="NVIDIA GPU memory error management",
    ),
    _kind(
        "memory.row_remap_pending",
        _WARNING,
        "Row remap pending",
        "A memory row was replaced, or a memory channel or TPC is to be repaired: it takes effect at the next GPU "
        "reset.",
    ),
    _kind(
        "memory.row_remap_failed",
        _CRITICAL,
        "Row remap failed",
        "Memory can no longer repair itself (a row could not be remapped, the rows for remapping are used up, or the "
        "driver calls it unrepairable): a candidate for RMA once a field diagnostic confirms.",
        uncorrectable_rows=512.0,
        source="NVIDIA GPU memory error management; DCGM: 512 or more uncorrectable remaps fail",
    ),
    _kind(
        "memory.row_remap_spares_low",
        _WARNING,
        "Few spare rows in a bank",
        "A memory bank has no spare row left: the next uncorrectable error there cannot be repaired. While a bank only "
        "has few left it is info.",
        source="nvml.h, nvmlRowRemapperHistogramValues",
    ),
    _kind(
        "memory.retired_pages_pending",
        _WARNING,
        "Page retirement pending",
        "A memory page was retired; it takes effect when the driver reloads.",
    ),
    _kind(
        "memory.retired_pages_limit",
        _CRITICAL,
        "Retired pages at the limit",
        "So many memory pages are retired, or so many for double-bit errors and still more of late, that the board "
        "should be replaced.",
        pages=63.0,
        double_bit_pages=15.0,
        recent_days=7.0,
        source="DCGM: 63 or more fail (the board holds 64); so do more than 15 for double-bit errors with a new one in "
        "a week",
    ),
    _kind("memory.ecc_disabled", _WARNING, "ECC off", "ECC is off on a product that ships with it on."),
)
_LINKS = (
    _kind(
        "links.pcie_width",
        _WARNING,
        "PCIe link narrow",
        "Under load the PCIe link runs with fewer lanes than it can.",
        hold=30.0,
        clear=60.0,
    ),
    _kind(
        "links.pcie_generation",
        _WARNING,
        "PCIe link slow",
        "Under load the PCIe link runs at a lower generation than it can.",
        hold=30.0,
        clear=60.0,
    ),
    _kind(
        "links.pcie_replays",
        _WARNING,
        "PCIe replays",
        "The PCIe link repeats more packets than its budget allows.",
        clear=300.0,
        gen1_per_lane_minute=0.15,
        gen2_per_lane_minute=0.30,
        gen3_per_lane_minute=0.48,
        gen4_per_lane_minute=0.96,
        gen5_per_lane_minute=1.92,
        gen6_per_lane_minute=3.84,
        source="DCGM health limits",
    ),
    _kind(
        "links.pcie_aer",
        _WARNING,
        "PCIe errors",
        "PCIe Advanced Error Reporting counts new uncorrected errors, or corrected ones in number, at the GPU or at a "
        "bridge or root port above it.",
        clear=3600.0,
        uncorrected_errors=1.0,
        correctable_per_minute=31.0,
        source="sysfs aer_dev_*, kernel log; the rate is the replay budget of a Gen5 x16 link in DCGM's health limits",
    ),
    _kind(
        "links.nvlink_down",
        _CRITICAL,
        "NVLink down",
        "A link that was up is down, or one is down that all GPUs of the same kind beside it have. A board without a "
        "bridge has no links to lose.",
        clear=60.0,
        source="NVML field 165 (state by link; before Hopper nvmlDeviceGetNvLinkState); inactive links above zero are "
        "critical to DCGM and to NVIDIA's health validation",
    ),
    _kind(
        "links.nvlink_errors",
        _WARNING,
        "NVLink errors",
        "The error counters of an NVLink grow: replays and recoveries at all, CRC and effective errors beyond a rate.",
        clear=300.0,
        replay_errors=1.0,
        recovery_errors=1.0,
        recovery_failed_errors=1.0,
        integrity_errors=1.0,
        crc_per_second=100.0,
        effective_per_second=0.4,
        source="DCGM health: any replay or recovery, 100 CRC errors a second, an effective bit error rate above 1e-12 "
        "(0.4 a second on a link of 53 GB/s)",
    ),
    _kind(
        "links.fabric_not_ready",
        _CRITICAL,
        "NVLink fabric not ready",
        "The GPU has not joined its NVLink fabric some minutes after boot, or has joined it badly (a warning then): "
        "degraded bandwidth, unhealthy routes, a wrong configuration.",
        hold=60.0,
        clear=30.0,
        boot_grace_seconds=300.0,
        source="NVML nvmlDeviceGetGpuFabricInfoV: state 3 with status 0 is ready, its health mask names what is wrong",
    ),
    _kind(
        "links.fabric_manager_down",
        _CRITICAL,
        "Fabric manager down",
        "The fabric manager's unit is there and does not run, on a host with a fabric or where it is enabled; or none "
        "of the GPUs has joined the fabric.",
        hold=60.0,
        clear=30.0,
        source="systemd unit nvidia-fabricmanager.service; the fabric's grace after boot is that of "
        "links.fabric_not_ready",
    ),
    _kind(
        "links.ib_port_down",
        _WARNING,
        "InfiniBand port down",
        "An InfiniBand or RoCE port that was up is down, keeps dropping, or came back slower. A port that never was "
        "up is not cabled; one that is switched off is told as info.",
        hold=25.0,
        clear=60.0,
        drops=3.0,
        source="sysfs state and phys_state, looked at every ten seconds; three drops in ten minutes are flapping, as "
        "with other agents, which ask for three of 25 s",
    ),
)
_XID = (
    _kind(
        "xid.xid_storm",
        _WARNING,
        "Xid storm",
        "Xids come again and again on one GPU within a minute; what one process writes within two seconds counts as "
        "one, and codes that only follow from others (43, 45, 154) do not count.",
        event=EventClass.APPLICATION,
        events=10.0,
    ),
    _kind(
        "xid.sxid_fatal",
        _CRITICAL,
        "NVSwitch fatal error",
        "An NVSwitch reported an error that stops a link or the switch.",
        event=EventClass.RESET,
    ),
    _kind(
        "xid.sxid_nonfatal",
        _INFO,
        "NVSwitch error",
        "An NVSwitch reported an error that it handled.",
        event=EventClass.APPLICATION,
    ),
)
_SPEED = (
    _kind(
        "speed.clock_deficit",
        _WARNING,
        "GPU clock below reference",
        "Under load the clock stays below what this GPU should reach, and the driver gives no reason for it.",
        hold=300.0,
        clear=60.0,
        below_ratio=0.90,
        source="throughput rule 7; field report of 1095 of 1410 MHz at full utilisation, unseen by every dashboard",
    ),
    _kind(
        "speed.straggler",
        _WARNING,
        "GPU slower than its peers",
        "Under like load this GPU's clock is below that of the busy GPUs of its model: work that is shared among them "
        "waits for it.",
        hold=600.0,
        clear=60.0,
        below_ratio=0.90,
        deviations=3.0,
        at_least_gpus=3.0,
        source="throughput peer comparison: below 0.90 of the median for 10 min and more than 3 MAD",
    ),
    _kind(
        "speed.stuck_pstate",
        _WARNING,
        "GPU stuck in a low state",
        "The GPU is busy, yet in an idle performance state.",
        hold=60.0,
        clear=30.0,
        performance_state=5.0,
        utilization_ratio=0.8,
        source="throughput rule 8",
    ),
    _kind(
        "speed.memory_clock",
        _WARNING,
        "Memory clock low",
        "Under load, in a working performance state, the memory clock stays below its maximum.",
        hold=60.0,
        clear=30.0,
        performance_state=2.0,
        below_ratio=0.90,
        source="throughput rule 9; healthy GeForce cards compute in P2 at 0.968 and 0.978 of their maximum",
    ),
    _kind(
        "speed.throughput_drop",
        _WARNING,
        "Work slower than before",
        "The operator's own throughput figure of a working GPU fell below what it usually is.",
        hold=300.0,
        clear=60.0,
        below_ratio=0.90,
        source="GPUs of one model differ by 8 %, measured over several clusters",
    ),
    _kind(
        "speed.ghost_busy",
        _INFO,
        "Busy without work",
        "Utilisation is pinned high with no process and near idle power: the counter is stuck, the card works.",
        hold=300.0,
        clear=30.0,
        utilization_ratio=0.99,
        idle_power_ratio=0.3,
        source="throughput rule 11 and power fraction of rule 10; seen of Blackwell after a killed kernel",
    ),
)
_HOST = (
    _kind(
        "host.hung_task",
        _WARNING,
        "Task hung in the kernel",
        "The kernel reports a task blocked for minutes.",
        event=EventClass.APPLICATION,
    ),
    _kind(
        "host.persistence_off",
        _INFO,
        "Persistence mode off",
        "The driver would unload the GPU when nobody uses it: settings and counters are lost then. Told of boards "
        "that ship with ECC on, of a GPU whose peers have the mode on, and where nvidia-persistenced should run.",
        hold=60.0,
        source="NVML persistence mode; the driver's own default on GeForce is off",
    ),
    _kind(
        "host.orphan_memory",
        _WARNING,
        "Memory without owner",
        "GPU memory is in use and no process owns it; told as info until it has lasted.",
        clear=120.0,
        lasting_seconds=300.0,
        driver_share_bytes=512 * 1024.0**2,
        driver_share_with_reserve_bytes=1024.0**3,
        source="idle boards use 0 to 62 MB beside the reserved memory; a driver that does not split that off reports "
        "it as used, 420 to 500 MB more",
    ),
    _kind(
        "host.journal_unwritable",
        _WARNING,
        "Journal cannot be written",
        "What happens now is kept in memory only.",
        clear=10.0,
    ),
    _kind(
        "host.engine_error",
        _CRITICAL,
        "The engine failed on an observation",
        "A fault of gpuwarden itself: one observation was set aside.",
    ),
    _kind(
        "host.node_identity",
        _WARNING,
        "Node identity unproven",
        "The scheduler's node is not provably this host: what gpuwarden would do to that node might hit another "
        "machine, so it does nothing. Judged where `[isolation] backend` is a scheduler.",
    ),
)


def _xid_kinds() -> tuple[Kind, ...]:
    return tuple(
        _kind(found.kind, found.severity, found.title, found.why, event=found.event_class) for found in xid_findings()
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (*_PRESENCE, *_THERMAL, *_POWER, *_MEMORY, *_LINKS, *_xid_kinds(), *_XID, *_SPEED, *_HOST)
}


def default_settings() -> dict[str, KindSettings]:
    """Return how every kind is judged when nobody configured anything."""
    return {name: kind.defaults for name, kind in KINDS.items()}
