"""PCIe Advanced Error Reporting: errors of the GPU's own function, and of the bridges and root port above it."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import finding
from gpuwarden.model.finding import Evidence, Unsure, Verdict
from gpuwarden.model.snapshot import GpuState, NodeState

_KIND = "links.pcie_aer"
_LINES_SECONDS = 3600.0
_LEAST_SPAN_SECONDS = 60.0


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield the GPUs whose path to the root port makes errors. Hosts whose kernel counts none give no verdict."""
    settings = node.settings.kinds[_KIND]
    if not settings.enabled:
        return
    for uuid, gpu in node.gpus.items():
        if gpu.pci is None:
            if node.pci_readable is False and (gpu.identity.bdf, "nonfatal") in node.aer:
                yield Unsure(kind=_KIND, uuid=uuid)  # it could be read before
            continue
        for bdf in (gpu.pci.bdf, *reversed([port.bdf for port in gpu.pci.upstream])):  # the nearest names it
            found = finding(_KIND, settings, uuid, _of(node, gpu, bdf, settings.thresholds))
            if found is not None:
                yield found
                break


def _of(node: NodeState, gpu: GpuState, bdf: str, thresholds: dict[str, float]) -> Evidence | None:
    """Return what is wrong at one device of the path, None where nothing is."""
    grown, spans = {}, {}
    for severity in ("correctable", "nonfatal", "fatal"):
        window = node.aer.get((bdf, severity))
        grown[severity] = window.grown if window is not None else 0.0
        spans[severity] = window.span_seconds if window is not None else 0.0
    logged_at, lines = node.aer_lines.get(bdf.partition(".")[0], (0.0, 0))
    lines = lines if node.now.boottime - logged_at <= _LINES_SECONDS else 0
    span = spans["correctable"]
    minute = 60.0 * grown["correctable"] / span if span >= _LEAST_SPAN_SECONDS else 0.0
    uncorrected = max(grown["nonfatal"] + grown["fatal"], float(lines))
    if uncorrected < thresholds["uncorrected_errors"] and minute <= thresholds["correctable_per_minute"]:
        return None
    return {
        "device": bdf,
        "place": "gpu" if gpu.pci is not None and bdf == gpu.pci.bdf else "port above the gpu",
        "correctable_per_minute": round(minute, 1),
        "nonfatal_errors": grown["nonfatal"],
        "fatal_errors": grown["fatal"],
        "kernel_lines": lines,
        "window_seconds": round(max(spans.values())),
    }
