"""What one GPU is and what it last said: identity, readings, and why a reading is absent."""

from __future__ import annotations

import enum
from typing import TypeAlias, get_type_hints

import msgspec


class Missing(enum.Enum):
    """Why a reading is absent. Never 0, never NaN, and never by itself "healthy" or "faulty"."""

    NOT_SUPPORTED = "not_supported"
    """This product or driver has no such reading: no verdict is drawn from it."""
    NO_PERMISSION = "no_permission"
    """The driver refused the caller."""
    TIMED_OUT = "timed_out"
    """The call did not answer within its deadline: the state is unknown."""
    GPU_LOST = "gpu_lost"
    """The driver lost the device; room `presence` makes that a finding."""
    IMPLAUSIBLE = "implausible"
    """The driver answered with a value outside physics."""
    PAUSED = "paused"
    """We closed the session on purpose (reset, release, quiet period)."""
    UNKNOWN = "unknown"
    """Not read yet, or a return code or enum value this release does not know."""


class Lane(enum.Enum):
    """How often a reading is taken; the periods are configuration."""

    FAST = "fast"
    NORMAL = "normal"
    SLOW = "slow"
    STATIC = "static"
    PCIE = "pcie"
    """PCIe throughput sampling: blocks 20 ms and more per direction, so it has a thread of its own."""


Scalar: TypeAlias = int | float | Missing
Vector: TypeAlias = tuple[Scalar, ...] | Missing
Value: TypeAlias = int | float | Missing | tuple[Scalar, ...]
_UNREAD = Missing.UNKNOWN


class GpuIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same while a GPU sits in its slot. Empty string: the driver does not say.

    `bdf` is lower case with four-digit domain and function: `0000:3b:00.0`. `uuid` is NVML's (`GPU-...`), or
    `PCI-<bdf>` for a device that never answered.
    """

    uuid: str
    bdf: str
    name: str = ""
    serial: str = ""
    vbios: str = ""
    minor: int | None = None
    board: str = ""
    slot: str = ""
    brand: str = ""
    inforom_image: str = ""
    inforom_oem: str = ""
    inforom_ecc: str = ""
    inforom_power: str = ""


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """The latest readings of one GPU in base units; `Missing` says why one is absent.

    Field names are the names used on the wire, in `gpuwarden_gpu_reading_status{reading}` and in the API.
    Vectors are indexed by fan or by NVLink link. Sources: NVML; `nvml/driver.py` holds the call for each field.
    """

    # temperature
    core_celsius: Scalar = _UNREAD
    memory_celsius: Scalar = _UNREAD
    margin_celsius: Scalar = _UNREAD
    limit_shutdown_celsius: Scalar = _UNREAD
    limit_slowdown_celsius: Scalar = _UNREAD
    limit_memory_max_celsius: Scalar = _UNREAD
    limit_gpu_max_celsius: Scalar = _UNREAD
    limit_target_celsius: Scalar = _UNREAD
    margin_limit_shutdown_celsius: Scalar = _UNREAD
    margin_limit_slowdown_celsius: Scalar = _UNREAD
    margin_limit_max_operating_celsius: Scalar = _UNREAD
    # fans (requested speed, not a tachometer)
    fan_speed_ratio: Vector = _UNREAD
    fan_speed_rpm: Vector = _UNREAD
    # power
    power_watts: Scalar = _UNREAD  # averaged over a second where the board can
    power_instant_watts: Scalar = _UNREAD
    power_limit_enforced_watts: Scalar = _UNREAD
    power_limit_default_watts: Scalar = _UNREAD
    power_limit_min_watts: Scalar = _UNREAD
    power_limit_max_watts: Scalar = _UNREAD
    power_limit_requested_watts: Scalar = _UNREAD  # what was set; other limiters may enforce less
    energy_joules: Scalar = _UNREAD
    # clocks
    graphics_clock_hertz: Scalar = _UNREAD
    sm_clock_hertz: Scalar = _UNREAD
    memory_clock_hertz: Scalar = _UNREAD
    video_clock_hertz: Scalar = _UNREAD
    graphics_clock_max_hertz: Scalar = _UNREAD
    sm_clock_max_hertz: Scalar = _UNREAD
    memory_clock_max_hertz: Scalar = _UNREAD
    video_clock_max_hertz: Scalar = _UNREAD
    graphics_clock_boost_hertz: Scalar = _UNREAD  # what NVIDIA promises; data-centre boards only
    sm_clock_application_hertz: Scalar = _UNREAD  # the setting, on drivers that still have it
    memory_clock_application_hertz: Scalar = _UNREAD
    performance_state: Scalar = _UNREAD
    clocks_event_reasons: Scalar = _UNREAD  # NVML bit mask; names in CLOCKS_EVENT_REASONS
    event_sw_power_cap_seconds: Scalar = _UNREAD
    event_sync_boost_seconds: Scalar = _UNREAD
    event_sw_thermal_seconds: Scalar = _UNREAD
    event_hw_thermal_seconds: Scalar = _UNREAD
    event_power_brake_seconds: Scalar = _UNREAD
    violation_thermal_seconds: Scalar = _UNREAD  # older counters of the same kind, by limit instead of by reason
    violation_board_limit_seconds: Scalar = _UNREAD
    violation_low_utilization_seconds: Scalar = _UNREAD
    violation_reliability_seconds: Scalar = _UNREAD
    # utilisation
    gpu_utilization_ratio: Scalar = _UNREAD
    memory_utilization_ratio: Scalar = _UNREAD
    encoder_utilization_ratio: Scalar = _UNREAD
    decoder_utilization_ratio: Scalar = _UNREAD
    jpeg_utilization_ratio: Scalar = _UNREAD
    ofa_utilization_ratio: Scalar = _UNREAD
    # activity by GPM: averages between two looks at Hopper and newer
    graphics_activity_ratio: Scalar = _UNREAD
    sm_activity_ratio: Scalar = _UNREAD
    sm_occupancy_ratio: Scalar = _UNREAD
    integer_activity_ratio: Scalar = _UNREAD
    tensor_activity_ratio: Scalar = _UNREAD
    tensor_dfma_activity_ratio: Scalar = _UNREAD
    tensor_hmma_activity_ratio: Scalar = _UNREAD
    tensor_dmma_activity_ratio: Scalar = _UNREAD
    tensor_imma_activity_ratio: Scalar = _UNREAD
    dram_activity_ratio: Scalar = _UNREAD
    fp64_activity_ratio: Scalar = _UNREAD
    fp32_activity_ratio: Scalar = _UNREAD
    fp16_activity_ratio: Scalar = _UNREAD
    processes: Scalar = _UNREAD
    # memory
    memory_used_bytes: Scalar = _UNREAD
    memory_free_bytes: Scalar = _UNREAD
    memory_reserved_bytes: Scalar = _UNREAD
    memory_size_bytes: Scalar = _UNREAD
    bar1_used_bytes: Scalar = _UNREAD
    bar1_size_bytes: Scalar = _UNREAD
    # ECC: `volatile` counts since the driver loaded, `lifetime` since the board was made
    ecc_mode: Scalar = _UNREAD
    ecc_mode_default: Scalar = _UNREAD
    ecc_corrected_volatile: Scalar = _UNREAD
    ecc_uncorrected_volatile: Scalar = _UNREAD
    ecc_corrected_lifetime: Scalar = _UNREAD
    ecc_uncorrected_lifetime: Scalar = _UNREAD
    ecc_corrected_volatile_dram: Scalar = _UNREAD
    ecc_corrected_volatile_sram: Scalar = _UNREAD
    ecc_uncorrected_volatile_dram: Scalar = _UNREAD
    ecc_uncorrected_volatile_sram: Scalar = _UNREAD
    ecc_corrected_lifetime_dram: Scalar = _UNREAD
    ecc_corrected_lifetime_sram: Scalar = _UNREAD
    ecc_uncorrected_lifetime_dram: Scalar = _UNREAD
    ecc_uncorrected_lifetime_sram: Scalar = _UNREAD
    # on-chip memories one by one: boards before Ampere, which have no sum of them
    ecc_corrected_volatile_l1_cache: Scalar = _UNREAD
    ecc_corrected_volatile_l2_cache: Scalar = _UNREAD
    ecc_corrected_volatile_register_file: Scalar = _UNREAD
    ecc_corrected_volatile_texture_memory: Scalar = _UNREAD
    ecc_corrected_volatile_texture_shm: Scalar = _UNREAD
    ecc_corrected_volatile_cbu: Scalar = _UNREAD
    ecc_corrected_lifetime_l1_cache: Scalar = _UNREAD
    ecc_corrected_lifetime_l2_cache: Scalar = _UNREAD
    ecc_corrected_lifetime_register_file: Scalar = _UNREAD
    ecc_corrected_lifetime_texture_memory: Scalar = _UNREAD
    ecc_corrected_lifetime_texture_shm: Scalar = _UNREAD
    ecc_corrected_lifetime_cbu: Scalar = _UNREAD
    ecc_uncorrected_volatile_l1_cache: Scalar = _UNREAD
    ecc_uncorrected_volatile_l2_cache: Scalar = _UNREAD
    ecc_uncorrected_volatile_register_file: Scalar = _UNREAD
    ecc_uncorrected_volatile_texture_memory: Scalar = _UNREAD
    ecc_uncorrected_volatile_texture_shm: Scalar = _UNREAD
    ecc_uncorrected_volatile_cbu: Scalar = _UNREAD
    ecc_uncorrected_lifetime_l1_cache: Scalar = _UNREAD
    ecc_uncorrected_lifetime_l2_cache: Scalar = _UNREAD
    ecc_uncorrected_lifetime_register_file: Scalar = _UNREAD
    ecc_uncorrected_lifetime_texture_memory: Scalar = _UNREAD
    ecc_uncorrected_lifetime_texture_shm: Scalar = _UNREAD
    ecc_uncorrected_lifetime_cbu: Scalar = _UNREAD
    sram_threshold_exceeded: Scalar = _UNREAD
    # row remapping and page retirement
    remapped_rows_corrected: Scalar = _UNREAD
    remapped_rows_uncorrected: Scalar = _UNREAD
    row_remap_pending: Scalar = _UNREAD
    row_remap_failed: Scalar = _UNREAD
    row_remap_banks: Vector = _UNREAD  # banks with spares left: max, high, partial, low, none
    channel_repair_pending: Scalar = _UNREAD  # a memory channel is repaired by the next reset
    tpc_repair_pending: Scalar = _UNREAD
    unrepairable_memory: Scalar = _UNREAD
    retired_pages_sbe: Scalar = _UNREAD
    retired_pages_dbe: Scalar = _UNREAD
    retired_pages_dbe_timestamp_seconds: Scalar = _UNREAD  # when the last one was retired; absent without any
    retired_pages_pending: Scalar = _UNREAD
    # modes
    persistence_mode: Scalar = _UNREAD
    mig_mode: Scalar = _UNREAD
    mig_instances: Scalar = _UNREAD  # how many there are; `model/mig.py` holds what they say
    display_active: Scalar = _UNREAD
    vgpu_licensed: Scalar = _UNREAD
    recovery_action: Scalar = _UNREAD  # NVML enum; names in RECOVERY_ACTIONS
    # PCIe; generation and width fall at idle by design
    pcie_generation: Scalar = _UNREAD
    pcie_generation_max: Scalar = _UNREAD  # of slot and card together
    pcie_generation_gpu_max: Scalar = _UNREAD  # of the card alone: above it the slot is the limit
    pcie_width_lanes: Scalar = _UNREAD
    pcie_width_max_lanes: Scalar = _UNREAD
    pcie_replays: Scalar = _UNREAD
    # traffic: GPM's average between two looks where there is GPM, else a sample of some 20 ms
    pcie_tx_bytes_per_second: Scalar = _UNREAD
    pcie_rx_bytes_per_second: Scalar = _UNREAD
    # NVLink
    nvlink_tx_bytes: Scalar = _UNREAD
    nvlink_rx_bytes: Scalar = _UNREAD
    nvlink_link_tx_bytes: Vector = _UNREAD  # by link
    nvlink_link_rx_bytes: Vector = _UNREAD
    nvlink_crc_flit_count: Scalar = _UNREAD  # these four: the driver's own sums over all links, up to Hopper
    nvlink_crc_data_count: Scalar = _UNREAD
    nvlink_replay_count: Scalar = _UNREAD
    nvlink_recovery_count: Scalar = _UNREAD
    nvlink_tx_bytes_per_second: Scalar = _UNREAD  # by GPM
    nvlink_rx_bytes_per_second: Scalar = _UNREAD
    nvlink_up: Vector = _UNREAD  # by link: 1 active, 0 inactive, NOT_SUPPORTED where the board has no such link
    # NVLink errors by link since the driver loaded; what a generation does not count is NOT_SUPPORTED
    nvlink_replay_errors: Vector = _UNREAD
    nvlink_recovery_errors: Vector = _UNREAD
    nvlink_recovery_failed_errors: Vector = _UNREAD
    nvlink_crc_errors: Vector = _UNREAD  # of flits and data together
    nvlink_crc_flit_errors: Vector = _UNREAD
    nvlink_crc_data_errors: Vector = _UNREAD
    nvlink_symbol_errors: Vector = _UNREAD
    nvlink_effective_errors: Vector = _UNREAD  # what is left of symbol errors after forward error correction
    nvlink_receive_errors: Vector = _UNREAD
    nvlink_discard_errors: Vector = _UNREAD
    nvlink_overrun_errors: Vector = _UNREAD
    nvlink_integrity_errors: Vector = _UNREAD
    # the NVLink fabric (NVSwitch systems since Hopper); names in FABRIC_STATES and FABRIC_FAULTS
    fabric_state: Scalar = _UNREAD
    fabric_health_summary: Scalar = _UNREAD  # NVML enum: 1 healthy, 2 unhealthy, 3 limited capacity
    fabric_status: Scalar = _UNREAD  # NVML return code of joining; it counts once the state is "completed"
    fabric_health_mask: Scalar = _UNREAD

    def value(self, field: str) -> Value:
        """Return one reading by its field name. Raises: AttributeError for a name that is not a reading."""
        found: Value = getattr(self, field)
        return found


READINGS: tuple[str, ...] = tuple(GpuReading.__struct_fields__)
VECTOR_READINGS: frozenset[str] = frozenset(name for name, hint in get_type_hints(GpuReading).items() if hint == Vector)

ON_CHIP_MEMORIES = ("l1_cache", "l2_cache", "register_file", "texture_memory", "texture_shm", "cbu")
"""On-chip memories that boards before Ampere count one by one, as they end the names of readings."""

CLOCKS_EVENT_REASONS: dict[int, str] = {  # source: nvml.h 13.5, nvmlClocksEventReason*
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}

RECOVERY_ACTIONS: dict[int, str] = {  # source: nvml.h and cuda-python bindings; NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
    0: "none",
    1: "gpu_reset",
    2: "node_reboot",
    3: "drain_p2p",
    4: "drain_and_reset",
    5: "recover_imex_domain",
    6: "bus_reset",
    7: "system_reboot",
}
NVLINK_ERRORS: dict[str, str] = {  # label of the error -> reading
    name.removeprefix("nvlink_").removesuffix("_errors"): name
    for name in READINGS
    if name.startswith("nvlink_") and name.endswith("_errors")
}
"""The NVLink error counters. `crc` counts flits and data together: where these are told apart it says nothing new."""

FABRIC_STATES: dict[int, str] = {  # source: nvml.h 13.5, NVML_GPU_FABRIC_STATE_*; 0 is a GPU without a fabric
    1: "not_started",
    2: "in_progress",
    3: "completed",
}
UNKNOWN_FABRIC_STATE = "unknown"

FABRIC_FAULTS: tuple[tuple[str, int, int, frozenset[int]], ...] = (
    # what the health mask says: name, shift, width mask, the values that are bad. Source: nvml.h 13.5,
    # NVML_GPU_FABRIC_HEALTH_MASK_*; 0 is always "not supported"
    ("degraded_bandwidth", 0, 3, frozenset({1})),
    ("route_recovery", 2, 3, frozenset({1})),
    ("route_unhealthy", 4, 3, frozenset({1})),
    ("access_timeout_recovery", 6, 3, frozenset({1})),
    ("incorrect_configuration", 8, 15, frozenset(range(2, 16))),
)


def fabric_faults(health_mask: int) -> tuple[str, ...]:
    """Return the names of what a fabric health mask finds wrong."""
    return tuple(name for name, shift, width, bad in FABRIC_FAULTS if (health_mask >> shift) & width in bad)


UNKNOWN_RECOVERY_ACTION = "unknown"
"""Label for a recovery action above 0 that this release does not know: needs attention, never "none"."""


def present(value: Value) -> bool:
    """Return whether a reading holds a value rather than a reason for its absence."""
    return not isinstance(value, Missing)
