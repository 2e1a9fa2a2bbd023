"""Node states built by hand, for what shows them: one healthy node per product, and ways to make it sick."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gpuwarden.exposition.native import Extras, ProcessStats
from gpuwarden.model.finding import Health, Incident
from gpuwarden.model.gpu import READINGS, GpuIdentity, GpuReading, Missing
from gpuwarden.model.mig import MIG_READINGS, MigInstance, MigReading
from gpuwarden.model.observation import PciDevice, Stamp, WorkerState
from gpuwarden.model.settings import KindSettings, Settings
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, Held, NodeState, NvmlState, Presence
from gpuwarden.model.speed import Mean, Reference, Speed, Work
from gpuwarden.model.workload import GpuProcess, Holder, Owner, ProcessKind, Source

BOOT = "0f1c6a52-8d3e-4a77-9f3e-0d6c1b2a3948"
NOW = Stamp(BOOT, 5000.0, 1_790_000_000.0)
SETTINGS = Settings(
    kinds={
        "presence.gpu_lost": KindSettings(severity=Severity.CRITICAL),
        "thermal.core_near_limit": KindSettings(severity=Severity.WARNING),
    }
)
"""Two kinds stand for the catalogue, so that a new kind changes no golden file."""
EXTRAS = Extras(
    version="0.1.0",
    python="3.11.2",
    nvml_binding="13.580.82",
    mode="shadow",
    hostname="rig7",
    labels={"room": "hall-2"},
    processes={
        "main": ProcessStats(cpu_seconds=12.5, resident_bytes=45_000_000, open_fds=31, start_time=1_789_995_000.0),
        "nvml-worker": ProcessStats(cpu_seconds=8.25, resident_bytes=24_000_000, open_fds=12),
    },
)


def reading(**values: Any) -> GpuReading:
    """Return readings of which all that is not named is unsupported by the product."""
    return GpuReading(**(dict.fromkeys(READINGS, Missing.NOT_SUPPORTED) | values))


H100 = reading(
    core_celsius=41.0,
    memory_celsius=48.0,
    margin_celsius=46.0,
    margin_limit_shutdown_celsius=-8.0,
    margin_limit_slowdown_celsius=-2.0,
    margin_limit_max_operating_celsius=0.0,
    power_watts=412.5,
    power_limit_enforced_watts=700.0,
    power_limit_default_watts=700.0,
    power_limit_min_watts=200.0,
    power_limit_max_watts=700.0,
    energy_joules=1_234_567.891,
    graphics_clock_hertz=1_980_000_000,
    sm_clock_hertz=1_980_000_000,
    memory_clock_hertz=2_619_000_000,
    video_clock_hertz=1_545_000_000,
    graphics_clock_max_hertz=1_980_000_000,
    sm_clock_max_hertz=1_980_000_000,
    memory_clock_max_hertz=2_619_000_000,
    video_clock_max_hertz=1_545_000_000,
    graphics_clock_boost_hertz=1_980_000_000,
    performance_state=0,
    clocks_event_reasons=0x4,
    event_sw_power_cap_seconds=3.5,
    event_sync_boost_seconds=0.0,
    event_sw_thermal_seconds=0.0,
    event_hw_thermal_seconds=0.0,
    event_power_brake_seconds=0.0,
    gpu_utilization_ratio=1.0,
    memory_utilization_ratio=0.35,
    encoder_utilization_ratio=0.0,
    decoder_utilization_ratio=0.0,
    jpeg_utilization_ratio=0.0,
    ofa_utilization_ratio=0.0,
    graphics_activity_ratio=1.0,
    sm_activity_ratio=0.94,
    sm_occupancy_ratio=0.41,
    integer_activity_ratio=0.13,
    tensor_activity_ratio=0.52,
    tensor_dfma_activity_ratio=0.0,
    tensor_hmma_activity_ratio=0.49,
    tensor_dmma_activity_ratio=0.0,
    tensor_imma_activity_ratio=0.03,
    dram_activity_ratio=0.38,
    fp64_activity_ratio=0.0,
    fp32_activity_ratio=0.17,
    fp16_activity_ratio=0.06,
    processes=1,
    memory_used_bytes=60_000_000_000,
    memory_free_bytes=25_000_000_000,
    memory_reserved_bytes=520_000_000,
    memory_size_bytes=85_520_000_000,
    bar1_used_bytes=2_000_000,
    bar1_size_bytes=137_438_953_472,
    ecc_mode=1,
    ecc_mode_default=1,
    ecc_corrected_volatile=3,
    ecc_uncorrected_volatile=0,
    ecc_corrected_lifetime=9,
    ecc_uncorrected_lifetime=1,
    ecc_corrected_volatile_dram=2,
    ecc_corrected_volatile_sram=1,
    ecc_uncorrected_volatile_dram=0,
    ecc_uncorrected_volatile_sram=0,
    ecc_corrected_lifetime_dram=7,
    ecc_corrected_lifetime_sram=2,
    ecc_uncorrected_lifetime_dram=1,
    ecc_uncorrected_lifetime_sram=0,
    sram_threshold_exceeded=0,
    remapped_rows_corrected=0,
    remapped_rows_uncorrected=1,
    row_remap_pending=0,
    row_remap_failed=0,
    row_remap_banks=(2559, 1, 0, 0, 0),
    persistence_mode=1,
    mig_mode=0,
    mig_instances=0,
    display_active=0,
    recovery_action=0,
    pcie_generation=5,
    pcie_generation_max=5,
    pcie_width_lanes=16,
    pcie_width_max_lanes=16,
    pcie_replays=0,
    pcie_tx_bytes_per_second=1_200_000,
    pcie_rx_bytes_per_second=3_400_000,
    nvlink_tx_bytes=10_000_000_000,
    nvlink_rx_bytes=11_000_000_000,
    nvlink_tx_bytes_per_second=2.5e9,
    nvlink_rx_bytes_per_second=2.25e9,
    nvlink_up=(1,) * 18,
    nvlink_replay_errors=(0,) * 18,
    nvlink_recovery_errors=(0,) * 18,
    nvlink_crc_errors=(0,) * 7 + (12,) + (0,) * 10,
    fabric_state=3,
    fabric_status=0,
    fabric_health_mask=0,
)

_NONE = Missing.NOT_SUPPORTED
_ACTIVITY = tuple(name for name in MIG_READINGS if name in GpuReading.__struct_fields__ and name.endswith("_ratio"))

H100_MIG = replace(
    H100,
    **dict.fromkeys(_ACTIVITY, _NONE),
    gpu_utilization_ratio=_NONE,
    memory_utilization_ratio=_NONE,
    encoder_utilization_ratio=_NONE,
    decoder_utilization_ratio=_NONE,
    jpeg_utilization_ratio=_NONE,
    ofa_utilization_ratio=_NONE,
    nvlink_tx_bytes_per_second=_NONE,
    nvlink_rx_bytes_per_second=_NONE,
    mig_mode=1,
    mig_instances=3,
)

_THIRD = MigReading(
    **dict.fromkeys(_ACTIVITY, 0.25),
    memory_used_bytes=9_000_000_000,
    memory_free_bytes=33_000_000_000,
    memory_size_bytes=42_000_000_000,
    multiprocessors=60,
    gpu_slices=3,
    compute_slices=3,
    ecc_corrected_volatile_sram=1,
    ecc_uncorrected_volatile_sram=0,
)
_HALVED = replace(_THIRD, multiprocessors=16, compute_slices=1, tensor_imma_activity_ratio=_NONE)
INSTANCES = (
    MigInstance(gi=1, ci=0, uuid="MIG-1", profile="3g.40gb", placement=(0, 4), readings=_THIRD),
    MigInstance(gi=2, ci=0, uuid="MIG-2", profile="1c.3g.40gb", readings=_HALVED),
    MigInstance(gi=2, ci=1, uuid="MIG-3", profile="1c.3g.40gb", readings=_HALVED),
)
"""Two GPU instances, the second of them shared by two compute instances."""

RTX_4090 = reading(
    core_celsius=67.0,
    limit_shutdown_celsius=99.0,
    limit_slowdown_celsius=96.0,
    limit_gpu_max_celsius=93.0,
    limit_target_celsius=84.0,
    fan_speed_ratio=(0.62, 0.62),
    power_watts=402.125,
    power_limit_enforced_watts=450.0,
    power_limit_default_watts=450.0,
    power_limit_min_watts=150.0,
    power_limit_max_watts=600.0,
    energy_joules=98_765.4,
    graphics_clock_hertz=2_520_000_000,
    sm_clock_hertz=2_520_000_000,
    memory_clock_hertz=10_501_000_000,
    video_clock_hertz=1_950_000_000,
    performance_state=2,
    clocks_event_reasons=0,
    gpu_utilization_ratio=0.99,
    memory_utilization_ratio=0.61,
    processes=2,
    memory_used_bytes=20_000_000_000,
    memory_free_bytes=5_300_000_000,
    memory_reserved_bytes=450_000_000,
    memory_size_bytes=25_750_000_000,
    bar1_used_bytes=5_000_000,
    bar1_size_bytes=34_359_738_368,
    persistence_mode=0,
    display_active=0,
    pcie_generation=4,
    pcie_generation_max=4,
    pcie_width_lanes=16,
    pcie_width_max_lanes=16,
    pcie_replays=12,
    pcie_tx_bytes_per_second=50_000,
    pcie_rx_bytes_per_second=75_000,
)

T4 = reading(
    core_celsius=38.0,
    limit_shutdown_celsius=96.0,
    limit_slowdown_celsius=93.0,
    limit_gpu_max_celsius=85.0,
    power_watts=27.5,
    power_limit_enforced_watts=70.0,
    power_limit_default_watts=70.0,
    power_limit_min_watts=60.0,
    power_limit_max_watts=70.0,
    energy_joules=5_000.0,
    graphics_clock_hertz=585_000_000,
    sm_clock_hertz=585_000_000,
    memory_clock_hertz=5_001_000_000,
    performance_state=0,
    clocks_event_reasons=1,
    gpu_utilization_ratio=0.0,
    memory_utilization_ratio=0.0,
    ecc_mode=1,
    ecc_corrected_volatile=4,
    ecc_uncorrected_volatile=0,
    ecc_corrected_lifetime=4,
    ecc_uncorrected_lifetime=0,
    ecc_corrected_volatile_dram=1,
    ecc_uncorrected_volatile_dram=0,
    retired_pages_sbe=2,
    retired_pages_dbe=1,
    retired_pages_pending=0,
    persistence_mode=1,
    pcie_generation=1,
    pcie_generation_max=3,
    pcie_width_lanes=8,
    pcie_width_max_lanes=16,
    pcie_replays=0,
)

PRODUCTS: dict[str, tuple[str, GpuReading]] = {
    "h100": ("NVIDIA H100 80GB HBM3", H100),
    "h100mig": ("NVIDIA H100 80GB HBM3", H100_MIG),
    "rtx4090": ("NVIDIA GeForce RTX 4090", RTX_4090),
    "t4": ("Tesla T4", T4),
}


def gpu(index: int, product: str = "h100", **fields: Any) -> GpuState:
    """Return one healthy GPU that answers; `fields` replace fields of its state."""
    name, readings = PRODUCTS[product]
    bdf = f"0000:{0x1B + index:02x}:00.0"
    state = GpuState(
        identity=GpuIdentity(
            uuid=f"GPU-0000000{index}-1111-2222-3333-444444444444",
            bdf=bdf,
            name=name,
            serial=f"165322300000{index}" if product != "rtx4090" else "",
            vbios="96.00.89.00.01",
            minor=index,
            slot=f"slot-{index + 1}",
        ),
        index=index,
        first_seen=NOW.wall - 4000,
        last_seen=NOW.wall,
        presence=Presence.ANSWERING,
        readings=readings,
        mig=INSTANCES if product == "h100mig" else (),
        last_sample=NOW.wall - 0.25,
        pci=PciDevice(bdf=bdf, driver="nvidia", aer_correctable=2, aer_nonfatal=0, aer_fatal=0),
        speed=_speed(readings),
        work={"tokens_per_second": Work(value=2150.5, at=NOW.boottime)} if product == "h100" else {},
        held=_held(index),
        health=Health.HEALTHY,
    )
    return replace(state, **fields)


def _speed(readings: GpuReading) -> Speed:
    """Return the speed of a GPU at work that is as fast as its peers; nothing is known of one that idles."""
    clock, busy = readings.sm_clock_hertz, readings.gpu_utilization_ratio
    if not isinstance(clock, int | float) or isinstance(busy, Missing) or busy < 0.9:
        return Speed()
    hertz = float(clock)
    return Speed(clock=Mean(hertz, NOW.boottime), reference_hertz=hertz, reference=Reference.PEERS)


def _held(index: int) -> Held:
    """Return one Slurm job of one process as the holder of a GPU."""
    job = str(4200 + index)
    owner = Owner(source=Source.SLURM, workload=job, job=job, user="ada")
    process = GpuProcess(pid=20000 + index, kind=ProcessKind.COMPUTE, used_bytes=20_000_000_000)
    return Held(
        processes=(process,),
        total=1,
        absent=None,
        at=NOW.boottime - 20,
        owners={process.pid: replace(owner, command="python3")},
        owners_absent=None,
        holders=(Holder(owner=owner, processes=1, used_bytes=20_000_000_000),),
        workloads=1,
    )


def node(*gpus: GpuState, **fields: Any) -> NodeState:
    """Return a node with these GPUs and an open NVML session; `fields` replace fields of its state."""
    state = NodeState(
        now=NOW,
        started=Stamp(BOOT, 1000.0, NOW.wall - 4000),
        settings=SETTINGS,
        nvml=NvmlState(
            state=WorkerState.UP, driver="580.82.07", nvml="13.580.82.07", cuda="13.0", count=len(gpus), session=1
        ),
        gpus={each.identity.uuid: each for each in gpus},
        by_index={each.index: each.identity.uuid for each in gpus},
        pci_readable=True,
        pci=tuple(each.pci for each in gpus if each.pci is not None),
        services_readable=True,
        kmsg_up=True,
        kmsg_records=1500,
        journal_bytes=65536,
        polls={("fast", "ok"): 4000},
        poll_seconds={"fast": (8.5, (0, 3000, 900, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0))},
        config_loaded=NOW.wall - 4000,
        health=Health.HEALTHY,
    )
    return replace(state, **fields)


def product_node(product: str, count: int = 8) -> NodeState:
    """Return a node of `count` GPUs of one product."""
    return node(*(gpu(index, product) for index in range(count)))


def incident(kind: str, uuid: str | None = None, severity: Severity = Severity.CRITICAL, **fields: Any) -> Incident:
    """Return an incident that opened a minute ago."""
    opened = Stamp(BOOT, NOW.boottime - 60, NOW.wall - 60)
    base = Incident(
        id=f"{BOOT[:8]}-1", kind=kind, severity=severity, uuid=uuid, opened=opened, last_seen=NOW,
        evidence={"core_celsius": 91.0},
    )  # fmt: skip
    return replace(base, **fields)


def with_incidents(state: NodeState, *incidents: Incident) -> NodeState:
    """Return the node with these incidents open."""
    return replace(state, incidents={(each.kind, each.uuid or ""): each for each in incidents})
