"""Writes docs/runbooks/<kind>.md from the catalogue of finding kinds: `python docs/generate.py`.

Everything in a page comes from `gpuwarden.model.kinds`, so that it cannot say something else than the agent does.
"""

from __future__ import annotations

from pathlib import Path

from gpuwarden.model.kinds import KINDS, Kind
from gpuwarden.model.severity import EventClass

RUNBOOKS = Path(__file__).with_name("runbooks")

_ENDS = {
    EventClass.APPLICATION: "by itself, after its latch time without repetition",
    EventClass.RESET: "when the GPU was reset, the driver reloaded (its counters start over) or the host rebooted",
    EventClass.RECOVERY: "when the driver's recovery action says none, or after a reset, driver reload or reboot",
    None: "when it is no longer true, after its clear time",
}
_FIRST_LOOK = {
    "presence": ("gpuwarden status", "nvidia-smi -L", "lspci -d 10de: -nn", "journalctl -k -g 'NVRM|Xid' -n 50"),
    "thermal": ("gpuwarden status", "nvidia-smi -q -d TEMPERATURE,PERFORMANCE,POWER", "ipmitool sdr type Fan"),
    "power": ("gpuwarden status", "nvidia-smi -q -d POWER,PERFORMANCE", "ipmitool sdr type 'Power Supply'"),
    "memory": ("gpuwarden status", "nvidia-smi -q -d ECC,PAGE_RETIREMENT,ROW_REMAPPER"),
    "links": ("gpuwarden status", "nvidia-smi -q -d PCIE", "nvidia-smi nvlink -s", "journalctl -k -g AER -n 50"),
    "xid": ("gpuwarden events --since 1h", "journalctl -k -g 'NVRM|Xid' -n 50", "nvidia-smi -q"),
    "speed": ("gpuwarden status", "nvidia-smi -q -d CLOCK,PERFORMANCE,UTILIZATION"),
    "host": ("gpuwarden status", "journalctl -u gpuwarden -n 50", "journalctl -k -n 50"),
}
_FIRST_LOOK_OF_KIND = {  # where the room's own commands would miss it
    "links.fabric_not_ready": ("gpuwarden status", "nvidia-smi -q | grep -A6 Fabric", "nvidia-smi nvlink -s"),
    "links.fabric_manager_down": (
        "systemctl status nvidia-fabricmanager",
        "journalctl -u nvidia-fabricmanager -n 50",
        "nvidia-smi -q | grep -A6 Fabric",
    ),
    "links.ib_port_down": ("ibstat", "ls /sys/class/infiniband", "dmesg | grep -i mlx5 | tail"),
    "links.nvlink_down": ("nvidia-smi nvlink -s", "nvidia-smi topo -m", "journalctl -k -g 'NVRM|Xid|SXid' -n 50"),
    "links.nvlink_errors": ("nvidia-smi nvlink -e", "nvidia-smi nvlink -s", "journalctl -k -g 'NVRM|Xid|SXid' -n 50"),
    "links.pcie_aer": ("lspci -tv", "journalctl -k -g AER -n 50", "nvidia-smi -q -d PCIE"),
    "host.persistence_off": ("nvidia-smi -q | grep -i persistence", "systemctl status nvidia-persistenced"),
}


def page(kind: Kind) -> str:
    """Return the runbook page of one kind, as Markdown."""
    settings = kind.defaults
    numbers = {"hold_seconds": settings.hold_seconds, "clear_seconds": settings.clear_seconds, **settings.thresholds}
    if settings.latch_seconds is not None:
        numbers["latch_seconds"] = settings.latch_seconds
    lines = [
        f"# {kind.name}: {kind.title}",
        "",
        kind.meaning,
        "",
        f"- Severity by default: {settings.severity.value}.",
        f"- It ends {_ENDS[settings.event_class]}.",
        f'- Judged by, and to be set under `[checks."{kind.name}"]`: '
        + ", ".join(f"`{name} = {value:g}`" for name, value in numbers.items())
        + ".",
    ]
    if kind.source:
        lines.append(f"- Source: {kind.source}.")
    if not kind.judged:
        lines.append("- This release knows the name but does not judge it yet.")
    lines += ["", "## First look", "", "```sh", f"gpuwarden explain finding {kind.name}", *_first_look(kind)]
    lines += [
        "```",
        "",
        "The evidence of the incident (values, window, return code, kernel line) is in `gpuwarden events`.",
    ]
    lines += [
        "gpuwarden changes nothing on the host by itself in this release: what to do next is yours to decide.",
        "",
    ]
    return "\n".join(lines)


def _first_look(kind: Kind) -> tuple[str, ...]:
    return _FIRST_LOOK_OF_KIND.get(kind.name, _FIRST_LOOK[kind.room])


def main() -> None:
    """Write every page, and remove those of kinds that are gone."""
    RUNBOOKS.mkdir(exist_ok=True)
    for old in RUNBOOKS.glob("*.md"):
        if old.stem not in KINDS:
            old.unlink()
    for kind in KINDS.values():
        (RUNBOOKS / f"{kind.name}.md").write_text(page(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
