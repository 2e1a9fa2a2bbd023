"""The status page as HTML, made on the server: it needs no JavaScript and nothing from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from gpuwarden.exposition import api
from gpuwarden.exposition.native import Extras
from gpuwarden.model.snapshot import NodeState

_PAGE = files("gpuwarden.exposition.page")
STATIC: dict[str, tuple[bytes, str]] = {
    "page.css": (_PAGE.joinpath("page.css").read_bytes(), "text/css"),
    "page.js": (_PAGE.joinpath("page.js").read_bytes(), "text/javascript"),
}
"""File name under /static/ -> (bytes, content type)."""

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<noscript><meta http-equiv="refresh" content="5"></noscript>
<link rel="stylesheet" href="/static/page.css">
<script src="/static/page.js" defer></script>
</head>
<body>
<p id="stale" class="banner" hidden>No answer from gpuwarden: what you see is old.</p>
<main>
{body}
</main>
</body>
</html>
"""

_COLUMNS = (
    ("GPU", "number"), ("Product", "name"), ("Health", ""), ("Core", "number"), ("Memory", "number"), ("Fan", "number"),
    ("Power", "number"), ("Utilisation", ""), ("Memory used", ""), ("SM clock", "number"), ("Findings", "wide"),
)  # fmt: skip


def render(node: NodeState, extras: Extras) -> bytes:
    """Return the page for this state."""
    status = api.status(node, extras)
    health = status["health"]
    body = "\n".join([*_head(status), *_findings(status), *_cases(status), *_gpus(status), *_foot(status)])
    title = f"{health} · {status['host']['name'] or 'this host'} · gpuwarden"
    return _FRAME.format(title=_text(title), body=body).encode()


def _text(value: object) -> str:
    return html.escape(str(value))


def _badge(word: str) -> str:
    return f'<span class="badge {_text(word)}">{_text(word)}</span>'


def _when(wall: float | None) -> str:
    if wall is None or not 0 < wall < 1e11:
        return "never"
    moment = datetime.fromtimestamp(wall, UTC)
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def _head(status: dict[str, Any]) -> Iterable[str]:
    host, nvml = status["host"], status["nvml"]
    yield "<header>"
    yield f"<h1>{_text(host['name'] or 'this host')}</h1>"
    yield _badge(status["health"])
    facts = [f"{name} {value}" for name, value in host["labels"].items()]
    facts.append(f"mode {status['mode']}")
    facts.append(f"driver {nvml['driver']}" if nvml["driver"] else f"NVML {nvml['state'].replace('_', ' ')}")
    yield f'<span class="facts">{_text(" · ".join(facts))}</span>'
    yield "</header>"
    if status["drill"]:
        yield '<p class="banner">A drill is on: some of what is shown was injected.</p>'
    if nvml["state"] != "up" and nvml["detail"]:
        yield f'<p class="banner">NVML: {_text(nvml["detail"])}</p>'
    if status["kmsg"]["up"] is False:
        yield f'<p class="banner">The kernel log cannot be read: {_text(status["kmsg"]["detail"])}</p>'


def _findings(status: dict[str, Any]) -> Iterable[str]:
    found = [(None, each) for each in status["findings"]]
    found += [(gpu, each) for gpu in status["gpus"] for each in gpu["findings"]]
    order = ("critical", "warning", "info")
    found.sort(key=lambda pair: (order.index(pair[1]["severity"]), pair[1]["opened"]))
    yield "<h2>Findings</h2>"
    if not found:
        yield "<p>Nothing is wrong that this agent can see.</p>"
        return
    yield '<div class="scroll"><table><thead><tr><th>Severity</th><th>Finding</th><th>Where</th><th>Since</th>'
    yield "<th>Evidence</th></tr></thead><tbody>"
    for gpu, each in found:
        where = "host" if gpu is None else " · ".join((f"GPU {gpu['gpu']}", *_board(gpu)))
        evidence = ", ".join(f"{name} {_value(value)}" for name, value in each["evidence"].items())
        drill = " (drill)" if each["drill"] else ""
        yield (
            f"<tr><td>{_badge(each['severity'])}</td><td>{_text(each['kind'] + drill)}</td><td>{_text(where)}</td>"
            f'<td>{_when(each["opened"])}</td><td class="wide">{_text(evidence)}</td></tr>'
        )
    yield "</tbody></table></div>"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)


def _cases(status: dict[str, Any]) -> Iterable[str]:
    """Yield the open cases: what is done, how far it is, and what it waits for."""
    if not status["cases"]:
        return
    yield '<section><h2>Cases</h2><div class="scroll"><table>'
    yield "<tr><th>Case</th><th>GPU</th><th>About</th><th>State</th><th>Since</th><th>Rung</th><th>Waits for</th></tr>"
    for case in status["cases"]:
        where = "host" if case["gpu"] is None else f"GPU {case['gpu']}"
        drill = " (drill)" if case["drill"] else ""
        waits = ", ".join(case["waits_for"]) or case["why"]
        yield (
            f"<tr><td>{_text(case['case'] + drill)}</td><td>{_text(where)}</td><td>{_text(case['kind'])}</td>"
            f"<td>{_text(case['state'])}</td><td>{_when(case['since'])}</td><td>{_text(case['rung'])}</td>"
            f"<td>{_text(waits)}</td></tr>"
        )
    yield "</table></div></section>"


def _gpus(status: dict[str, Any]) -> Iterable[str]:
    yield "<h2>GPUs</h2>"
    if not status["gpus"]:
        yield "<p>No GPU has answered yet, and none is known from before.</p>"
        return
    head = "".join(f'<th class="{css}">{name}</th>' for name, css in _COLUMNS)
    yield f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
    for gpu in status["gpus"]:
        cells = (
            str(gpu["gpu"]),
            _product(gpu),
            _badge(gpu["health"]),
            _reading(gpu, "core_celsius", " °C"),
            _reading(gpu, "memory_celsius", " °C"),
            _reading(gpu, "fan_speed_ratio", " %", 100),
            _reading(gpu, "power_watts", " W"),
            _utilization(gpu),
            _memory(gpu),
            _reading(gpu, "sm_clock_hertz", " MHz", 1e-6),
            _kinds(gpu),
        )
        yield (
            "<tr>"
            + "".join(f'<td class="{css}">{cell}</td>' for cell, (_, css) in zip(cells, _COLUMNS, strict=True))
            + "</tr>"
        )
    yield "</tbody></table></div>"


def _product(gpu: dict[str, Any]) -> str:
    name = gpu["name"] or "unknown product"
    known = " · ".join((*_board(gpu), gpu["pci_bus_id"]))
    return f'{_text(name)}<br><span class="why" title="{_text(gpu["uuid"])}">{_text(known)}</span>'


def _board(gpu: dict[str, Any]) -> list[str]:
    """Return what a hand in the rack looks for: slot and serial number, where they are known."""
    return [f"{name} {gpu[name]}" for name in ("slot", "serial") if gpu[name]]


def _reading(gpu: dict[str, Any], field: str, unit: str, scale: float = 1.0) -> str:
    """Return one reading; a vector as its highest element; an absent one as its reason."""
    found = gpu["readings"][field]
    value = found["value"]
    if isinstance(value, list):
        value = max((item for item in value if item is not None), default=None)
    if value is None or not math.isfinite(value):
        why = found["status"].replace("_", " ")
        return "–" if found["status"] in ("not_supported", "ok") else f'<span class="why">{_text(why)}</span>'
    return f"{value * scale:.0f}{unit}"


def _meter(value: float | None, of: float | None) -> str:
    if value is None or not of:
        return ""
    ratio = min(1.0, max(0.0, value / of))
    return f'<meter min="0" max="1" value="{ratio:.3f}"></meter> {ratio * 100:.0f} %'


def _utilization(gpu: dict[str, Any]) -> str:
    field = "gpu_utilization_ratio"
    return _meter(gpu["readings"][field]["value"], 1.0) or _reading(gpu, field, "")


def _memory(gpu: dict[str, Any]) -> str:
    used, size = (gpu["readings"][f"memory_{which}_bytes"]["value"] for which in ("used", "size"))
    if used is None or not size:
        return _reading(gpu, "memory_used_bytes", " GiB", 2**-30)
    return f"{_meter(used, size)} <span class='why'>of {size / 2**30:.0f} GiB</span>"


def _kinds(gpu: dict[str, Any]) -> str:
    kinds = [f'<span class="{_text(each["severity"])}">{_text(each["kind"])}</span>' for each in gpu["findings"]]
    reasons = [each.replace("_", " ") for each in gpu["clocks_event_reasons"] or () if each != "gpu_idle"]
    if reasons:
        kinds.append(f'<span class="why">clocks: {_text(", ".join(reasons))}</span>')
    return "<br>".join(kinds) or '<span class="none">none</span>'


def _foot(status: dict[str, Any]) -> Iterable[str]:
    host = status["host"]
    links = "".join(
        f' · <a href="{path}">{name}</a>'
        for name, path in (("metrics", "/metrics"), ("status", "/api/v1/status"), ("events", "/api/v1/events"))
    )
    yield f"<footer>{_when(host['time'])} · gpuwarden {_text(host['version'])}{links}</footer>"
