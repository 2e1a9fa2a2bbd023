"""*Heat*: rooms, hosts and slots by temperature, for whoever keeps them cool."""

from __future__ import annotations

from boards.board import CLUSTER, MODEL, ROOM, ROOMS, RUNBOOK, Board, Section
from boards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SEVERITIES,
    YELLOW,
    Column,
    Query,
    facts,
    lines,
    tiles,
)
from boards.queries import by_place, headroom, of_model, slowed_by_heat

CORE = f'gpuwarden_gpu_temperature_celsius{{sensor="core", {ROOM}}}'
DEGREES = ((None, BLUE), (50, GREEN), (70, YELLOW), (80, ORANGE), (88, RED))
LEFT = ((None, RED), (5, ORANGE), (15, YELLOW), (25, GREEN))
THERMAL = f'kind=~"thermal[.].+", {ROOM}'

NOW = Section(
    "Now",
    (
        tiles("Hottest core", Query(f"max({of_model(CORE, ROOM)})"), unit="celsius", steps=DEGREES, width=6),
        tiles(
            "Fewest degrees left",
            Query(f"min({of_model(headroom(ROOM), ROOM)})"),
            unit="celsius",
            steps=LEFT,
            width=6,
        ),
        tiles(
            "GPUs slowed by heat",
            Query(f"sum({of_model(slowed_by_heat(ROOM), ROOM)})"),
            steps=((None, GREEN), (1, ORANGE)),
            width=6,
        ),
        tiles(
            "Hosts in a hot room",
            Query(f'count(gpuwarden_finding_active{{kind="thermal.room_hot", {ROOM}}}) or vector(0)'),
            steps=((None, GREEN), (1, RED)),
            width=6,
        ),
    ),
)

MAPS = Section(
    "Room map",
    (
        facts(
            "Core temperature by host and slot",
            Query(by_place(CORE, ROOM)),
            columns=(Column("host", "Host", unit="celsius", steps=DEGREES),),
            matrix=("host", "place"),
            why="The slot is the physical one where the host knows it, the GPU's index otherwise.",
            height=10,
        ),
        facts(
            "Degrees left until the card slows down",
            Query(by_place(headroom(ROOM), ROOM)),
            columns=(Column("host", "Host", unit="celsius", steps=LEFT),),
            matrix=("host", "place"),
            why="By the margin or the slowdown limit that the card itself reports.",
            height=10,
        ),
    ),
)

TREND = Section(
    "Over time",
    (
        lines(
            "Core temperature by room",
            "celsius",
            Query(f"max by (room) ({of_model(CORE, ROOM)})", "{{room}} hottest"),
            Query(f"quantile by (room) (0.5, {of_model(CORE, ROOM)})", "{{room}} median"),
            Query(f"min by (room) ({of_model(CORE, ROOM)})", "{{room}} coolest"),
            why="When the coolest card warms with the hottest, it is the room.",
        ),
        lines(
            "Share of GPUs slowed by heat",
            "percentunit",
            Query(
                f"avg by (room) (max by (room, host, gpu) (gpuwarden_gpu_clocks_event_active"
                f'{{reason=~"sw_thermal_slowdown|hw_thermal_slowdown", {ROOM}}}))',
                "{{room}}",
            ),
            low=0,
            high=1,
        ),
        lines(
            "Power by room",
            "watt",
            Query(f"sum by (room) (gpuwarden_gpu_power_watts{{{ROOM}}})", "{{room}}"),
            low=0,
        ),
        lines(
            "Fan speed asked for, by host",
            "percentunit",
            Query(f"avg by (host) (gpuwarden_gpu_fan_speed_ratio{{{ROOM}}})", "{{host}}"),
            why="Only of cards with fans of their own.",
            low=0,
            high=1,
        ),
        facts(
            "Thermal findings",
            Query(f"count by (kind, severity, room, host) (gpuwarden_finding_active{{{THERMAL}}})"),
            columns=(
                Column("severity", "Severity", words=SEVERITIES, width=100),
                Column("kind", "Kind", link=("Runbook", RUNBOOK + "${__data.fields.Kind}.md")),
                Column("room", "Room"),
                Column("host", "Host"),
                Column("Value", "Findings", width=110),
            ),
            absent="no thermal finding",
            by="Findings",
        ),
    ),
)

BOARD = Board(
    uid="gpuwarden-heat",
    title="GPU heat",
    description="Rooms, hosts and slots by temperature. Needs the label `room` on the targets to tell rooms apart.",
    variables=(CLUSTER, ROOMS, MODEL),
    sections=(NOW, MAPS, TREND),
    incidents=THERMAL,
    span="now-3h",
)
