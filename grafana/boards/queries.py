"""Queries that more than one dashboard asks, and what their values are called."""

from __future__ import annotations

from boards.panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Word

OF_GPU = "cluster, host, gpu, uuid"

HEALTH = {
    "0": Word("healthy", GREEN),
    "1": Word("degraded", YELLOW),
    "2": Word("unhealthy", RED),
    "3": Word("unknown", GREY),
}


def health(selector: str) -> str:
    """Return the health of each GPU as one number, a key of HEALTH."""
    states = (
        f'gpuwarden_gpu_health{{state="degraded", {selector}}}',
        f'2 * gpuwarden_gpu_health{{state="unhealthy", {selector}}}',
        f'3 * gpuwarden_gpu_health{{state="unknown", {selector}}}',
    )
    return f"sum by ({OF_GPU}) ({' + ignoring (state) '.join(states)})"


HELD_DOWN = {
    "0": Word("free", GREEN),
    "1": Word("idle", GREY),
    "2": Word("a setting", BLUE),
    "3": Word("power cap", YELLOW),
    "4": Word("heat (software)", ORANGE),
    "5": Word("hardware slowdown", RED),
    "6": Word("power brake", "purple"),
    "7": Word("heat (hardware)", "dark-red"),
}
_REASONS = (  # code of HELD_DOWN, clocks event reasons
    (1, "gpu_idle"),
    (2, "applications_clocks_setting|display_clock_setting|sync_boost"),
    (3, "sw_power_cap"),
    (4, "sw_thermal_slowdown"),
    (5, "hw_slowdown"),
    (6, "hw_power_brake_slowdown"),
    (7, "hw_thermal_slowdown"),
)


def held_down(selector: str) -> str:
    """Return the gravest reason that holds each GPU's clocks down, a key of HELD_DOWN."""
    rows = (f'{code} * gpuwarden_gpu_clocks_event_active{{reason=~"{names}", {selector}}}' for code, names in _REASONS)
    return f"max by ({OF_GPU}) ({' or '.join(rows)})"


def findings(selector: str) -> str:
    """Return since when (in ms) what is wrong, by kind, severity, and the GPU by index, slot and serial."""
    since = f"gpuwarden_incident_start_timestamp_seconds{{{selector}}} * 1000"
    told = f"({since}) * on ({OF_GPU}, kind) group_left (severity) gpuwarden_finding_active{{{selector}}}"
    named = f"({told}) * on ({OF_GPU}) group_left (slot, serial) gpuwarden_gpu_info{{{selector}}}"
    return f"{named} or on ({OF_GPU}, kind) ({told})"


def of_model(expression: str, selector: str, labels: str = "") -> str:
    """Return a figure of each GPU of the chosen models, with these labels of its info metric."""
    return f'({expression}) * on ({OF_GPU}) group_left ({labels}) gpuwarden_gpu_info{{name=~"$model", {selector}}}'


def headroom(selector: str) -> str:
    """Return how many degrees each core has left until its card slows down, on boards with margins and with limits."""
    limit = f'gpuwarden_gpu_temperature_limit_celsius{{threshold="slowdown", {selector}}}'
    core = f'gpuwarden_gpu_temperature_celsius{{sensor="core", {selector}}}'
    return f"gpuwarden_gpu_temperature_margin_celsius{{{selector}}} or on ({OF_GPU}) ({limit} - on ({OF_GPU}) {core})"


def slowed_by_heat(selector: str) -> str:
    """Return 1 for each GPU whose clocks are held down by heat, 0 for the others."""
    reasons = f'reason=~"sw_thermal_slowdown|hw_thermal_slowdown", {selector}'
    return f"max by ({OF_GPU}) (gpuwarden_gpu_clocks_event_active{{{reasons}}})"


def by_place(expression: str, selector: str) -> str:
    """Return a figure of each GPU by host and place: its physical slot, or its index where no slot is known."""
    found = of_model(expression, selector, "slot")
    for place, label, pattern in (("GPU $1", "gpu", "(.+)"), ("slot $1", "slot", "(.+)"), ("slot 0$1", "slot", "(.)")):
        found = f'label_replace({found}, "place", "{place}", "{label}", "{pattern}")'
    return f"max by (host, place) ({found})"


_TIME = "${__url_time_range}"
NODE_BOARD = f"/d/gpuwarden-node?${{cluster:queryparam}}&var-host=${{__data.fields.Host}}&{_TIME}"
GPU_BOARD = f"/d/gpuwarden-gpu?${{cluster:queryparam}}&${{host:queryparam}}&var-gpu=${{__field.labels.gpu}}&{_TIME}"
