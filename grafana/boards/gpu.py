"""*GPU*: every reading of one card, with its limits as lines."""

from __future__ import annotations

from boards.board import CLUSTER, ONE, ONE_GPU, ONE_HOST, RUNBOOK, Board, Section
from boards.panels import (
    BLUE,
    GREEN,
    GREY,
    ON_OFF,
    ORANGE,
    RED,
    SEVERITIES,
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
from boards.queries import HEALTH, findings, health


def reading(family: str, labels: str = "") -> str:
    """Return the series of a family of the chosen GPU."""
    return f"gpuwarden_gpu_{family}{{{labels + ', ' if labels else ''}{ONE}}}"


def rising(family: str, by: str, *, of: str = "increase") -> str:
    """Return what a counter gained, by these labels."""
    return f"sum by ({by}) ({of}({reading(family)}[$__rate_interval]))"


GLANCE = Section(
    "At a glance",
    (
        tiles("Health", Query(health(ONE)), words=HEALTH, width=4),
        tiles("Core", Query(reading("temperature_celsius", 'sensor="core"')), unit="celsius", width=4),
        tiles("Power", Query(reading("power_watts")), unit="watt", width=4),
        tiles("Graphics clock", Query(reading("clock_hertz", 'domain="graphics"')), unit="hertz", width=4),
        tiles("Utilisation", Query(reading("utilization_ratio", 'engine="gpu"')), unit="percentunit", width=4),
        tiles(
            "Not answering for",
            Query(reading("blocked_seconds")),
            unit="s",
            steps=((None, GREEN), (1, RED)),
            width=4,
        ),
        facts(
            "Who it is",
            Query(reading("info")),
            columns=(
                Column("name", "Model"),
                Column("serial", "Serial"),
                Column("uuid", "UUID", width=360),
                Column("slot", "Slot", width=70),
                Column("pci_bus_id", "PCI address"),
                Column("vbios", "VBIOS"),
                Column("board", "Board"),
            ),
            height=4,
        ),
        facts(
            "What is wrong now",
            Query(findings(ONE)),
            columns=(
                Column("severity", "Severity", words=SEVERITIES, width=100),
                Column("kind", "Kind", link=("Runbook", RUNBOOK + "${__data.fields.Kind}.md")),
                Column("Value", "Since", unit="dateTimeFromNow", width=150),
            ),
            absent="nothing is wrong",
            width=14,
            height=6,
            by="Since",
        ),
        facts(
            "Readings that cannot be had",
            Query(f"max by (reading, status) ({reading('reading_status')})"),
            columns=(Column("reading", "Reading"), Column("status", "Why")),
            absent="every reading is there",
            width=10,
            height=6,
        ),
        states(
            "Health over time",
            Query(health(ONE), "health"),
            words=HEALTH,
            height=4,
        ),
    ),
)

HEAT = Section(
    "Heat and power",
    (
        lines(
            "Temperature",
            "celsius",
            Query(reading("temperature_celsius"), "{{sensor}}"),
            *(
                Query(reading("temperature_limit_celsius", f'threshold="{name}"'), f"limit: {name}", limit=color)
                for name, color in (
                    ("target", YELLOW),
                    ("gpu_max", YELLOW),
                    ("slowdown", ORANGE),
                    ("memory_max", ORANGE),
                    ("shutdown", RED),
                )
            ),
            why="A limit belongs to the core unless its name says memory.",
        ),
        lines(
            "Degrees left until the card slows down",
            "celsius",
            Query(reading("temperature_margin_celsius"), "margin"),
            *(
                Query(reading("temperature_margin_limit_celsius", f'threshold="{name}"'), f"limit: {name}", limit=color)
                for name, color in (("max_operating", YELLOW), ("slowdown", ORANGE), ("shutdown", RED))
            ),
            why="Boards from Hopper on. A limit is reached when the margin is at or below it.",
        ),
        lines(
            "Power",
            "watt",
            Query(reading("power_watts"), "drawn", fixed=BLUE),
            Query(rising("energy_joules_total", "gpu", of="rate"), "by the energy counter", fixed="purple"),
            *(
                Query(reading("power_limit_watts", f'bound="{name}"'), f"limit: {name}", limit=color)
                for name, color in (("enforced", RED), ("default", YELLOW), ("min", GREY), ("max", GREY))
            ),
            low=0,
        ),
        lines(
            "Fans",
            "percentunit",
            Query(reading("fan_speed_ratio"), "fan {{fan}}"),
            why="What the fan was told, not what it does.",
            low=0,
            high=1,
            width=6,
        ),
        lines(
            "Fans, measured",
            "rotrpm",
            Query(reading("fan_speed_rpm"), "fan {{fan}}"),
            low=0,
            width=6,
        ),
    ),
)

CLOCKS = Section(
    "Clocks and work",
    (
        states(
            "Clocks event reasons",
            Query(reading("clocks_event_active"), "{{reason}}"),
            words={"0": Word("no", "transparent"), "1": Word("holds the clocks down", ORANGE)},
            why="Everything that holds the clocks down, over time. gpu_idle is no fault.",
        ),
        lines(
            "Share of time the clocks were held down",
            "percentunit",
            Query(rising("clocks_event_seconds_total", "reason", of="rate"), "{{reason}}"),
            low=0,
            high=1,
        ),
        lines(
            "Core clocks",
            "hertz",
            Query(reading("clock_hertz", 'domain=~"graphics|sm|video"'), "{{domain}}"),
            Query(reading("clock_max_hertz", 'domain="graphics"'), "max graphics", limit=GREEN),
            Query(reading("clock_reference_hertz"), "SM reference under load", limit=YELLOW),
            low=0,
        ),
        lines(
            "Memory clock",
            "hertz",
            Query(reading("clock_hertz", 'domain="memory"'), "memory", fixed=BLUE),
            Query(reading("clock_max_hertz", 'domain="memory"'), "max", limit=GREEN),
            low=0,
            width=6,
        ),
        lines(
            "Performance state",
            "short",
            Query(reading("performance_state"), "P", fixed=BLUE),
            why="0 is the fastest, 8 and more are idle.",
            low=0,
            width=6,
        ),
        lines("Utilisation", "percentunit", Query(reading("utilization_ratio"), "{{engine}}"), low=0, high=1),
        lines(
            "Speed against its peers",
            "percentunit",
            Query(reading("speed_ratio"), "speed", fixed=BLUE),
            absent="not at work",
            why="SM clock under load against the reference clock: 100 % is as fast as its peers. Absent while idle.",
            low=0,
        ),
        lines(
            "Activity",
            "percentunit",
            Query(reading("activity_ratio"), "{{unit}}"),
            why="How busy each part was, on Hopper and newer.",
            low=0,
            high=1,
        ),
        lines(
            "Memory",
            "bytes",
            Query(reading("memory_bytes", 'state=~"used|reserved"'), "{{state}}"),
            Query(reading("memory_size_bytes"), "size", limit=GREEN),
            low=0,
            stacked=True,
        ),
        lines(
            "BAR1",
            "bytes",
            Query(reading("bar1_used_bytes"), "used", fixed=BLUE),
            Query(reading("bar1_size_bytes"), "size", limit=GREEN),
            low=0,
            width=6,
        ),
        lines("Processes", "short", Query(reading("processes"), "processes", fixed=BLUE), low=0, width=6),
    ),
)

MEMORY = Section(
    "Memory health",
    (
        lines(
            "ECC errors since the driver loaded",
            "short",
            Query(reading("ecc_errors_total"), "{{type}} {{memory}}"),
            low=0,
        ),
        lines(
            "ECC errors in the life of the board",
            "short",
            Query(reading("ecc_errors_lifetime"), "{{type}} {{memory}}"),
            low=0,
        ),
        lines("Rows remapped", "short", Query(reading("row_remaps_total"), "{{cause}}"), low=0),
        facts(
            "Banks by spare rows left",
            Query(reading("row_remap_banks")),
            columns=(Column("spare", "Spare rows"), Column("Value", "Banks")),
            why="A bank with none left cannot have its next uncorrectable error remapped.",
            width=6,
        ),
        states(
            "Repair",
            Query(reading("row_remap_pending"), "remap pending"),
            Query(reading("row_remap_failed"), "remap failed"),
            Query(reading("sram_ecc_threshold_exceeded"), "SRAM threshold"),
            words=YES_NO,
            width=6,
        ),
    ),
)

LINKS = Section(
    "PCIe and NVLink",
    (
        lines(
            "PCIe traffic",
            "Bps",
            Query(reading("pcie_throughput_bytes_per_second"), "{{direction}}"),
            why="The average between two looks on Hopper and newer, a sample of some 20 ms on older boards.",
            low=0,
        ),
        lines(
            "NVLink traffic",
            "Bps",
            Query(rising("nvlink_bytes_total", "direction", of="rate"), "{{direction}}"),
            low=0,
        ),
        lines(
            "PCIe width",
            "short",
            Query(reading("pcie_link_width_lanes", 'bound="current"'), "lanes", fixed=BLUE),
            Query(reading("pcie_link_width_lanes", 'bound="max"'), "max", limit=GREEN),
            low=0,
            width=6,
        ),
        lines(
            "PCIe generation",
            "short",
            Query(reading("pcie_link_generation", 'bound="current"'), "generation", fixed=BLUE),
            Query(reading("pcie_link_generation", 'bound="max"'), "max", limit=GREEN),
            why="Falls at idle by design.",
            low=0,
            width=6,
        ),
        lines(
            "PCIe errors",
            "short",
            Query(rising("pcie_replays_total", "gpu"), "replays"),
            Query(rising("pcie_aer_errors_total", "severity"), "AER {{severity}}"),
            low=0,
            bars=True,
        ),
        states(
            "NVLinks",
            Query(reading("nvlink_up"), "link {{link}}"),
            words={"0": Word("down", RED), "1": Word("up", GREEN)},
            height=9,
            width=12,
        ),
        lines(
            "NVLink errors",
            "short",
            Query(rising("nvlink_errors_total", "type"), "{{type}}"),
            why="Of all links; which one is in the finding.",
            low=0,
            height=9,
            bars=True,
        ),
        facts(
            "Settings",
            Query(f"max by (gpu) ({reading('persistence_mode')})"),
            Query(f"max by (gpu) ({reading('ecc_mode')})"),
            Query(f"max by (gpu) ({reading('mig_mode')})"),
            Query(f"max by (gpu) ({reading('display_active')})"),
            columns=(
                Column("Value #A", "Persistence", words=ON_OFF),
                Column("Value #B", "ECC", words=ON_OFF),
                Column("Value #C", "MIG", words=ON_OFF),
                Column("Value #D", "Display", words=ON_OFF),
            ),
            height=4,
        ),
    ),
)

EVENTS = Section(
    "Errors",
    (
        facts(
            "Xids of this boot",
            Query(f"max by (xid) ({reading('xid_last_timestamp_seconds')}) * 1000"),
            Query(f"sum by (xid) ({reading('xid_errors_total')}) and on (xid) {reading('xid_last_timestamp_seconds')}"),
            columns=(
                Column("xid", "Xid", width=80, link=("Runbook", RUNBOOK + "xid.xid_${__data.fields.Xid}.md")),
                Column("Value #B", "How often"),
                Column("Value #A", "Last", unit="dateTimeFromNow"),
            ),
            absent="none",
            width=12,
            by="Last",
        ),
        facts(
            "What the driver says it needs",
            Query(f"{reading('recovery_action')} == 1"),
            columns=(Column("action", "Recovery action"),),
            width=12,
        ),
    ),
)

BOARD = Board(
    uid="gpuwarden-gpu",
    title="GPU",
    description="One card: every reading with its limits, its errors and what they mean.",
    variables=(CLUSTER, ONE_HOST, ONE_GPU),
    sections=(GLANCE, HEAT, CLOCKS, MEMORY, LINKS, EVENTS),
    incidents=ONE,
)
