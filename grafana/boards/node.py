"""*Node*: one host at a glance, for whoever was paged about it."""

from __future__ import annotations

from boards.board import CLUSTER, GPU, GPUS, HOST, ONE_HOST, RUNBOOK, Board, Section
from boards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SEVERITIES,
    UP_DOWN,
    YELLOW,
    YES_NO,
    Column,
    Query,
    Word,
    facts,
    lines,
    states,
    tiles,
)
from boards.queries import GPU_BOARD, HEALTH, HELD_DOWN, findings, health, held_down

EACH = "GPU {{gpu}}"

GLANCE = Section(
    "At a glance",
    (
        tiles(
            "Health by GPU",
            Query(health(GPU), EACH),
            words=HEALTH,
            why="The verdict on each GPU. Unknown is not healthy: something that should be readable is not.",
            height=6,
            link=("Look at this GPU", GPU_BOARD),
        ),
        facts(
            "What is wrong now",
            Query(findings(HOST)),
            columns=(
                Column("severity", "Severity", words=SEVERITIES, width=100),
                Column("kind", "Kind", width=260, link=("Runbook", RUNBOOK + "${__data.fields.Kind}.md")),
                Column("gpu", "GPU", width=60),
                Column("slot", "Slot", width=90),
                Column("serial", "Serial"),
                Column("Value", "Since", unit="dateTimeFromNow", width=150),
            ),
            why="Every finding that is active, of a GPU or of the host as a whole.",
            absent="nothing is wrong",
            width=16,
            height=10,
            by="Since",
        ),
        facts(
            "Readings that cannot be had",
            Query(f"count by (gpu, status) (gpuwarden_gpu_reading_status{{{GPU}}})"),
            columns=(
                Column("gpu", "GPU", width=60),
                Column("status", "Why"),
                Column("Value", "How many", width=110),
            ),
            why="Neither there nor unsupported; which ones is on the GPU dashboard.",
            absent="every reading is there",
            width=8,
            height=10,
        ),
    ),
)

HEAT = Section(
    "Heat and power",
    (
        lines(
            "Core temperature",
            "celsius",
            Query(f'gpuwarden_gpu_temperature_celsius{{sensor="core", {GPU}}}', EACH),
            *(
                Query(
                    f'min by (threshold) (gpuwarden_gpu_temperature_limit_celsius{{threshold="{name}", {GPU}}})',
                    f"limit: {name}",
                    limit=color,
                )
                for name, color in (("target", YELLOW), ("slowdown", ORANGE), ("shutdown", RED))
            ),
            why="Limits are drawn where the driver gives absolute ones; where it gives margins, see the next panel.",
        ),
        lines(
            "Degrees left until the card slows down",
            "celsius",
            Query(f"gpuwarden_gpu_temperature_margin_celsius{{{GPU}}}", EACH),
            *(
                Query(
                    f'max by (threshold) (gpuwarden_gpu_temperature_margin_limit_celsius{{threshold="{name}", {GPU}}})',
                    f"limit: {name}",
                    limit=color,
                )
                for name, color in (("max_operating", YELLOW), ("slowdown", ORANGE), ("shutdown", RED))
            ),
            why="A limit is reached when the margin is at or below it. Boards before Hopper do not report a margin.",
        ),
        lines(
            "Memory temperature",
            "celsius",
            Query(f'gpuwarden_gpu_temperature_celsius{{sensor="memory", {GPU}}}', EACH),
            Query(
                f'min by (threshold) (gpuwarden_gpu_temperature_limit_celsius{{threshold="memory_max", {GPU}}})',
                "limit: memory_max",
                limit=RED,
            ),
        ),
        lines(
            "Fan speed asked for",
            "percentunit",
            Query(f"max by (gpu) (gpuwarden_gpu_fan_speed_ratio{{{GPU}}})", EACH),
            why="What the fan was told, not what it does. Boards without fans of their own report none.",
            low=0,
            high=1,
        ),
        lines(
            "Power",
            "watt",
            Query(f"gpuwarden_gpu_power_watts{{{GPU}}}", EACH),
            Query(
                f'min by (bound) (gpuwarden_gpu_power_limit_watts{{bound="enforced", {GPU}}})',
                "limit: enforced (lowest)",
                limit=RED,
            ),
            Query(
                f'max by (bound) (gpuwarden_gpu_power_limit_watts{{bound="default", {GPU}}})',
                "limit: default",
                limit=YELLOW,
            ),
            low=0,
        ),
        lines(
            "Power of all GPUs",
            "watt",
            Query(f"sum by (host) (gpuwarden_gpu_power_watts{{{GPU}}})", "drawn", fixed=BLUE),
            Query(
                f'sum by (host) (gpuwarden_gpu_power_limit_watts{{bound="enforced", {GPU}}})',
                "limit: enforced",
                limit=RED,
            ),
            low=0,
        ),
    ),
)

SPEED = Section(
    "Clocks and work",
    (
        states(
            "What holds the clocks down",
            Query(held_down(GPU), EACH),
            words=HELD_DOWN,
            why="The gravest clocks event reason of each GPU; all of them are on the GPU dashboard.",
        ),
        lines(
            "Graphics clock",
            "hertz",
            Query(f'gpuwarden_gpu_clock_hertz{{domain="graphics", {GPU}}}', EACH),
            Query(f'max by (domain) (gpuwarden_gpu_clock_max_hertz{{domain="graphics", {GPU}}})', "max", limit=GREEN),
            low=0,
        ),
        lines(
            "Memory clock",
            "hertz",
            Query(f'gpuwarden_gpu_clock_hertz{{domain="memory", {GPU}}}', EACH),
            Query(f'max by (domain) (gpuwarden_gpu_clock_max_hertz{{domain="memory", {GPU}}})', "max", limit=GREEN),
            low=0,
        ),
        lines(
            "Utilisation",
            "percentunit",
            Query(f'gpuwarden_gpu_utilization_ratio{{engine="gpu", {GPU}}}', EACH),
            low=0,
            high=1,
        ),
        lines(
            "Speed against its peers",
            "percentunit",
            Query(f"gpuwarden_gpu_speed_ratio{{{GPU}}}", EACH),
            absent="not at work",
            why="SM clock under load against the reference clock: 100 % is as fast as its peers. Absent while idle.",
            low=0,
        ),
        lines(
            "Processes",
            "short",
            Query(f"gpuwarden_gpu_processes{{{GPU}}}", EACH),
            low=0,
        ),
        lines(
            "Memory used",
            "bytes",
            Query(f'gpuwarden_gpu_memory_bytes{{state="used", {GPU}}}', EACH),
            Query(f"max by (host) (gpuwarden_gpu_memory_size_bytes{{{GPU}}})", "size", limit=GREEN),
            low=0,
        ),
    ),
)

MEMORY = Section(
    "Memory health and errors",
    (
        facts(
            "ECC and row remapping",
            Query(f'sum by (gpu) (gpuwarden_gpu_ecc_errors_total{{type="corrected", {GPU}}})'),
            Query(f'sum by (gpu) (gpuwarden_gpu_ecc_errors_total{{type="uncorrected", {GPU}}})'),
            Query(f'sum by (gpu) (gpuwarden_gpu_ecc_errors_lifetime{{type="uncorrected", {GPU}}})'),
            Query(f"sum by (gpu) (gpuwarden_gpu_row_remaps_total{{{GPU}}})"),
            Query(f'sum by (gpu) (gpuwarden_gpu_row_remap_banks{{spare=~"low|none", {GPU}}})'),
            Query(f"max by (gpu) (gpuwarden_gpu_row_remap_pending{{{GPU}}})"),
            Query(f"max by (gpu) (gpuwarden_gpu_row_remap_failed{{{GPU}}})"),
            columns=(
                Column("gpu", "GPU", width=60),
                Column("Value #A", "Corrected", unit="short"),
                Column("Value #B", "Uncorrected", steps=((None, "transparent"), (1, RED))),
                Column("Value #C", "Uncorrected, lifetime"),
                Column("Value #D", "Rows remapped"),
                Column("Value #E", "Banks low on spares", steps=((None, "transparent"), (1, ORANGE))),
                Column("Value #F", "Remap pending", words=YES_NO),
                Column("Value #G", "Remap failed", words=YES_NO),
            ),
            why="Counts since the driver loaded, unless they say otherwise.",
            height=9,
        ),
        lines(
            "ECC errors",
            "short",
            Query(
                f"sum by (gpu, type) (increase(gpuwarden_gpu_ecc_errors_total{{{GPU}}}[$__rate_interval])) > 0",
                EACH + " {{type}}",
            ),
            absent="none in this time",
            low=0,
            bars=True,
        ),
        lines(
            "Xids",
            "short",
            Query(
                f"sum by (gpu, xid) (increase(gpuwarden_gpu_xid_errors_total{{{GPU}}}[$__rate_interval])) > 0",
                EACH + " Xid {{xid}}",
            ),
            why="`gpuwarden explain xid N` says what one means.",
            absent="none in this time",
            low=0,
            bars=True,
        ),
        facts(
            "Xids of this boot",
            Query(f"max by (gpu, xid) (gpuwarden_gpu_xid_last_timestamp_seconds{{{GPU}}}) * 1000"),
            Query(
                f"sum by (gpu, xid) (gpuwarden_gpu_xid_errors_total{{{GPU}}})"
                f" and on (gpu, xid) gpuwarden_gpu_xid_last_timestamp_seconds{{{GPU}}}"
            ),
            columns=(
                Column("gpu", "GPU", width=60),
                Column("xid", "Xid", width=80, link=("Runbook", RUNBOOK + "xid.xid_${__data.fields.Xid}.md")),
                Column("Value #B", "How often"),
                Column("Value #A", "Last", unit="dateTimeFromNow"),
            ),
            absent="none",
            width=24,
            height=6,
            by="Last",
        ),
    ),
)

LINKS = Section(
    "PCIe",
    (
        facts(
            "PCIe links",
            Query(f'max by (gpu) (gpuwarden_gpu_pcie_link_generation{{bound="current", {GPU}}})'),
            Query(f'max by (gpu) (gpuwarden_gpu_pcie_link_generation{{bound="max", {GPU}}})'),
            Query(f'max by (gpu) (gpuwarden_gpu_pcie_link_width_lanes{{bound="current", {GPU}}})'),
            Query(f'max by (gpu) (gpuwarden_gpu_pcie_link_width_lanes{{bound="max", {GPU}}})'),
            Query(f"sum by (gpu) (gpuwarden_gpu_pcie_replays_total{{{GPU}}})"),
            Query(f"sum by (gpu) (gpuwarden_gpu_pcie_aer_errors_total{{{GPU}}})"),
            columns=(
                Column("gpu", "GPU", width=60),
                Column("Value #A", "Generation"),
                Column("Value #B", "Generation, max"),
                Column("Value #C", "Lanes"),
                Column("Value #D", "Lanes, max"),
                Column("Value #E", "Replays", unit="short"),
                Column("Value #F", "AER errors", unit="short"),
            ),
            why="Generation falls at idle by design; too few lanes under load is a finding.",
            height=9,
        ),
        lines(
            "PCIe traffic",
            "Bps",
            Query(
                f"sum by (gpu) (gpuwarden_gpu_pcie_throughput_bytes_per_second{{{GPU}}})",
                EACH,
            ),
            why="Both directions, sampled over some 20 ms.",
            low=0,
        ),
        lines(
            "PCIe replays",
            "short",
            Query(f"sum by (gpu) (increase(gpuwarden_gpu_pcie_replays_total{{{GPU}}}[$__rate_interval])) > 0", EACH),
            absent="none in this time",
            low=0,
            bars=True,
        ),
    ),
)

AGENT = Section(
    "The agent itself",
    (
        tiles("Scrape", Query(f'up{{job="gpuwarden", {HOST}}}'), words=UP_DOWN, width=4),
        tiles("NVML session", Query(f"gpuwarden_nvml_up{{{HOST}}}"), words=UP_DOWN, width=4),
        tiles("Kernel log", Query(f"gpuwarden_kmsg_up{{{HOST}}}"), words=UP_DOWN, width=4),
        tiles(
            "Drill",
            Query(f"gpuwarden_drill_active{{{HOST}}}"),
            words={"0": Word("none", GREEN), "1": Word("ACTIVE", ORANGE)},
            why="An injected fault is at work: what is reported may be a drill.",
            width=4,
        ),
        tiles(
            "Configuration",
            Query(f"gpuwarden_config_last_reload_successful{{{HOST}}}"),
            words={"0": Word("REFUSED", RED), "1": Word("accepted", GREEN)},
            width=4,
        ),
        tiles(
            "Journal errors",
            Query(f"gpuwarden_journal_write_errors_total{{{HOST}}}"),
            steps=((None, GREEN), (1, RED)),
            width=4,
        ),
        lines(
            "Age of the last answer",
            "s",
            Query(f"time() - gpuwarden_gpu_last_sample_timestamp_seconds{{{GPU}}}", EACH),
            why="Grows while a GPU does not answer; its readings are gone by then.",
            low=0,
        ),
        lines(
            "Slowest polls (99th percentile)",
            "s",
            Query(
                "histogram_quantile(0.99, sum by (lane, le)"
                f" (rate(gpuwarden_poll_duration_seconds_bucket{{{HOST}}}[$__rate_interval])))",
                "{{lane}}",
            ),
            low=0,
        ),
        lines(
            "Scrape duration",
            "s",
            Query(f'scrape_duration_seconds{{job="gpuwarden", {HOST}}}', "scrape", fixed=BLUE),
            width=8,
            low=0,
        ),
        lines(
            "Processor time",
            "percentunit",
            Query(
                f'sum by (process) (rate(process_cpu_seconds_total{{job="gpuwarden", {HOST}}}[$__rate_interval]))',
                "{{process}}",
            ),
            why="1 = one core.",
            width=8,
            low=0,
        ),
        lines(
            "Resident memory",
            "bytes",
            Query(f'process_resident_memory_bytes{{job="gpuwarden", {HOST}}}', "{{process}}"),
            width=8,
            low=0,
        ),
    ),
)

BOARD = Board(
    uid="gpuwarden-node",
    title="GPU node",
    description="One host: health, heat, power, clocks, errors, and the agent that watches them.",
    variables=(CLUSTER, ONE_HOST, GPUS),
    sections=(GLANCE, HEAT, SPEED, MEMORY, LINKS, AGENT),
    incidents=HOST,
)
