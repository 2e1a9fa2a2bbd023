"""*Fleet*: all hosts, for whoever owns them: how many are well, what is wrong with the others, what runs where."""

from __future__ import annotations

from boards.board import CLUSTER, FLEET, HOSTS, MODEL, RUNBOOK, Board, Section
from boards.panels import (
    GREEN,
    GREY,
    ORANGE,
    RED,
    SEVERITIES,
    UP_DOWN,
    YELLOW,
    Column,
    Query,
    facts,
    lines,
    ranking,
    tiles,
)
from boards.queries import NODE_BOARD, OF_GPU, headroom, of_model

BUSY = f'gpuwarden_gpu_utilization_ratio{{engine="gpu", {FLEET}}}'
POWER = f"gpuwarden_gpu_power_watts{{{FLEET}}}"
GRAPHICS = f'domain="graphics", {FLEET}'
COLORS = {"healthy": GREEN, "degraded": YELLOW, "unhealthy": RED, "unknown": GREY}
ONE_OF_MANY = "{{host}} GPU {{gpu}}"
TO_NODE = ("Look at this host", "/d/gpuwarden-node?var-host=${__field.labels.host}&${__url_time_range}")


def in_state(state: str) -> str:
    """Return how many GPUs of the chosen models are in a state of health."""
    gpus = f'gpuwarden_gpu_health{{state="{state}", {FLEET}}}'
    return f"sum({of_model(gpus, FLEET)})"


NOW = Section(
    "Now",
    (
        *(
            tiles(
                f"GPUs {state}",
                Query(in_state(state)),
                steps=((None, GREEN), (1, color)),
                width=4,
            )
            for state, color in COLORS.items()
        ),
        tiles(
            "Hosts that answer", Query(f'sum(up{{job="gpuwarden", {FLEET}}})'), steps=((None, RED), (1, GREEN)), width=4
        ),
        tiles(
            "Hosts silent",
            Query(f'count(up{{job="gpuwarden", {FLEET}}} == 0) or vector(0)'),
            steps=((None, GREEN), (1, RED)),
            width=4,
        ),
        facts(
            "What is wrong, by kind",
            Query(f"count by (kind, severity) (gpuwarden_finding_active{{{FLEET}}})"),
            Query(f"count by (kind, severity) (count by (kind, severity, host) (gpuwarden_finding_active{{{FLEET}}}))"),
            columns=(
                Column("severity", "Severity", words=SEVERITIES, width=100),
                Column("kind", "Kind", link=("Runbook", RUNBOOK + "${__data.fields.Kind}.md")),
                Column("Value #A", "Findings", width=110),
                Column("Value #B", "Hosts", width=90),
            ),
            absent="nothing is wrong",
            width=12,
            height=10,
            by="Hosts",
        ),
        facts(
            "Hosts",
            Query(f'max by (host, room) (up{{job="gpuwarden", {FLEET}}})'),
            Query(f"count by (host, room) (gpuwarden_gpu_info{{{FLEET}}})"),
            Query(f'sum by (host, room) (gpuwarden_gpu_health{{state="healthy", {FLEET}}})'),
            Query(f'max by (host, room) (gpuwarden_gpu_temperature_celsius{{sensor="core", {FLEET}}})'),
            Query(f"sum by (host, room) (gpuwarden_gpu_power_watts{{{FLEET}}})"),
            columns=(
                Column("host", "Host", link=("Look at this host", NODE_BOARD)),
                Column("room", "Room"),
                Column("Value #A", "Agent", words=UP_DOWN, width=80),
                Column("Value #B", "GPUs", width=70),
                Column("Value #C", "Healthy", width=80),
                Column("Value #D", "Hottest", unit="celsius", width=90),
                Column("Value #E", "Power", unit="watt", decimals=1, width=100),
            ),
            width=12,
            height=10,
        ),
    ),
)

TREND = Section(
    "Over time",
    (
        lines(
            "GPUs by health",
            "short",
            *(Query(in_state(state), state, fixed=color) for state, color in COLORS.items()),
            low=0,
            stacked=True,
        ),
        lines(
            "Incidents opened",
            "short",
            Query(f"sum by (kind) (increase(gpuwarden_incidents_total{{{FLEET}}}[$__rate_interval])) > 0", "{{kind}}"),
            absent="none in this time",
            low=0,
            bars=True,
        ),
        lines(
            "Power by model",
            "watt",
            Query(f"sum by (name) ({of_model(POWER, FLEET, 'name')})", "{{name}}"),
            low=0,
            stacked=True,
        ),
        lines(
            "Utilisation by model",
            "percentunit",
            Query(f"avg by (name) ({of_model(BUSY, FLEET, 'name')})", "{{name}}"),
            low=0,
            high=1,
        ),
    ),
)

EXTREMES = Section(
    "Hottest and slowest",
    (
        ranking(
            "Closest to slowing down by heat",
            "celsius",
            Query(f"sort(bottomk(12, {of_model(headroom(FLEET), FLEET)}))", ONE_OF_MANY),
            steps=((None, RED), (5, ORANGE), (15, GREEN)),
            high=60,
            why="Degrees left, by the margin or the slowdown limit that the card itself reports.",
            width=8,
            link=TO_NODE,
        ),
        ranking(
            "Lowest clock under load",
            "percentunit",
            Query(
                f"sort(bottomk(12, gpuwarden_gpu_clock_hertz{{{GRAPHICS}}}"
                f" / on ({OF_GPU}) gpuwarden_gpu_clock_max_hertz{{{GRAPHICS}}} and on ({OF_GPU}) {BUSY} >= 0.9))",
                ONE_OF_MANY,
            ),
            steps=((None, RED), (0.6, ORANGE), (0.8, GREEN)),
            high=1,
            why="Share of the product's highest clock, of GPUs at 90 % utilisation and more.",
            width=8,
            link=TO_NODE,
        ),
        ranking(
            "Slowest against their peers",
            "percentunit",
            Query(f"sort(bottomk(12, gpuwarden_gpu_speed_ratio{{{FLEET}}}))", ONE_OF_MANY),
            steps=((None, RED), (0.8, ORANGE), (0.95, GREEN)),
            high=1.1,
            why="SM clock under load against the reference clock of the host's busy GPUs of the same model.",
            width=8,
            link=TO_NODE,
        ),
    ),
)

VERSIONS = Section(
    "What runs where",
    (
        facts(
            "Models",
            Query(f"count by (name, vbios) (gpuwarden_gpu_info{{{FLEET}}})"),
            columns=(Column("name", "Model"), Column("vbios", "VBIOS"), Column("Value", "GPUs", width=80)),
            width=12,
            by="GPUs",
        ),
        facts(
            "Drivers",
            Query(f"count by (driver, cuda) (gpuwarden_driver_info{{{FLEET}}})"),
            columns=(Column("driver", "Driver"), Column("cuda", "CUDA"), Column("Value", "Hosts", width=80)),
            width=6,
            by="Hosts",
        ),
        facts(
            "Agents",
            Query(f"count by (version) (gpuwarden_build_info{{{FLEET}}})"),
            columns=(Column("version", "gpuwarden"), Column("Value", "Hosts", width=80)),
            width=6,
            by="Hosts",
        ),
    ),
)

BOARD = Board(
    uid="gpuwarden-fleet",
    title="GPU fleet",
    description="All hosts: how many are well, what is wrong with the others, what runs where.",
    variables=(CLUSTER, HOSTS, MODEL),
    sections=(NOW, TREND, EXTREMES, VERSIONS),
    incidents=FLEET,
    span="now-6h",
)
