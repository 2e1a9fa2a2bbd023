"""Writes docs/runbooks/<kind>.md and docs/metrics.md: `make docs`.

Everything in them comes from the tables the agent itself uses, the catalogue of finding kinds and the metric rows, so
that they cannot say something else than the agent does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gpuwarden.exposition.gpu_rows import GPU_ROWS
from gpuwarden.exposition.host_rows import HOST_ROWS, INCIDENT_ROWS, PROCESS_ROWS
from gpuwarden.exposition.mig_rows import INSTANCE_LABELS, MIG_ROWS, MigRow
from gpuwarden.exposition.native import POLLS_DURATION, PREFIX
from gpuwarden.exposition.reading_rows import READING_ROWS
from gpuwarden.exposition.remedy_rows import CASE_ROWS, REMEDY_ROWS
from gpuwarden.exposition.rows import ReadingRow
from gpuwarden.exposition.workload_rows import GPU_PROCESS_ROWS, WORKLOAD_ROWS
from gpuwarden.model.gpu import READINGS, VECTOR_READINGS, GpuReading
from gpuwarden.model.kinds import KINDS, Kind
from gpuwarden.model.mig import MIG_READINGS, MigInstance, MigReading
from gpuwarden.model.severity import EventClass

RUNBOOKS = Path(__file__).with_name("runbooks")
METRICS = Path(__file__).with_name("metrics.md")


class _Described(Protocol):
    """What the page says of a family; every kind of row has it."""

    @property
    def name(self) -> str: ...

    @property
    def help(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...


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


_GPU_LABELS = ("gpu", "uuid")
_METRICS_HEAD = """\
# Metrics

What `/metrics` shows with `[exposition] native = true`, the default. Names and labels are a contract: a change of one
is announced in the changelog.

- Numbers are in base units, which the names say: `_celsius _watts _joules _bytes _hertz _seconds _ratio`.
- `gpu` is the NVML index, `uuid` the board. Both come from the inventory and do not move because a sibling vanished; a
  device that never answered has its PCI address for a uuid. What never changes is on `gpuwarden_gpu_info` alone: join
  on `uuid`.
- A reading that a card does not support is absent, never 0. One that should be there and is not has a series in
  `gpuwarden_gpu_reading_status` that says why.
- The sum over the labels of a family means something, except for ratios, limits and states.
- When a GPU is lost or blocked its readings go; what is counted about it, its verdict and its findings stay.
"""
_ROOMS: tuple[tuple[str, str, tuple[str, ...], tuple[_Described, ...]], ...] = (
    ("The host and the agent", "", (), (*HOST_ROWS, POLLS_DURATION)),
    ("Remediation", "", (), REMEDY_ROWS),
    (
        "Open cases",
        "With `gpu` and `uuid` where a case is about one GPU, without where it is about the host.",
        (),
        CASE_ROWS,
    ),
    (
        "What is wrong",
        "Series about one GPU carry its `gpu` and `uuid`, series about the host carry neither.",
        (),
        INCIDENT_ROWS,
    ),
    ("GPUs, whether they answer or not", "", _GPU_LABELS, GPU_ROWS),
    (
        "Who holds a GPU",
        "Names of owners stand on the info metric alone, at most one series a GPU: join on `uuid`.",
        _GPU_LABELS,
        WORKLOAD_ROWS,
    ),
    ("Processes on a GPU", "Only with `[exposition] processes = true`.", _GPU_LABELS, GPU_PROCESS_ROWS),
    ("Readings of GPUs that answer", "", _GPU_LABELS, READING_ROWS),
    (
        "MIG instances",
        "Of a GPU that is cut into instances. `gi` and `ci` are used again at once when a GPU is cut anew: `mig_uuid` "
        "and `placement` tell one from the next. What compute instances share with each other, because it belongs to "
        "their GPU instance, stands on the first of them.",
        INSTANCE_LABELS,
        MIG_ROWS,
    ),
    (
        "Processes of the agent",
        "Standard names, without the prefix; `process` is `main` or `nvml-worker`.",
        (),
        PROCESS_ROWS,
    ),
)


def metrics_page() -> str:
    """Return the list of all metrics, as Markdown."""
    lines = [_METRICS_HEAD]
    for title, note, common, rows in _ROOMS:
        lines += [f"## {title}", ""]
        lines += [note, ""] if note else []
        lines += [f"All carry {_code(common)}.", ""] if common else []
        lines += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
        for row in rows:
            name = row.name if rows is PROCESS_ROWS else PREFIX + row.name
            lines.append(f"| `{name}` | {_type(row)} | {_code(row.labels)}{_values(row)} | {row.help} |")
        lines.append("")
    return "\n".join(lines)


def _code(labels: tuple[str, ...]) -> str:
    return " ".join(f"`{label}`" for label in labels)


def _values(row: _Described) -> str:
    """Return the values that the one label of a row about readings can have, where they are names."""
    if not isinstance(row, ReadingRow | MigRow) or len(row.labels) != 1:
        return ""
    everything = {name: (1,) * 5 if name in VECTOR_READINGS else 1 for name in READINGS}
    found = row.values(GpuReading(**everything)) if isinstance(row, ReadingRow) else row.values(_FULL_INSTANCE)
    values = [labels[0] for labels, _ in found]
    return "" if any(value.isdigit() for value in values) else ": " + " ".join(values)


_FULL_INSTANCE = MigInstance(gi=0, ci=0, uuid="", readings=MigReading(**dict.fromkeys(MIG_READINGS, 1)))


def _type(row: _Described) -> str:
    """Return the type that the renderer gives the family."""
    if row is POLLS_DURATION:
        return "histogram"
    if row.name.endswith("_total"):
        return "counter"
    return "info" if row.name.endswith("_info") else "gauge"


def main() -> None:
    """Write every page, and remove those of kinds that are gone."""
    RUNBOOKS.mkdir(exist_ok=True)
    for old in RUNBOOKS.glob("*.md"):
        if old.stem not in KINDS:
            old.unlink()
    for kind in KINDS.values():
        (RUNBOOKS / f"{kind.name}.md").write_text(page(kind), encoding="utf-8")
    METRICS.write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
