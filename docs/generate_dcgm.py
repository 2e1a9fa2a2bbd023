"""Writes the tables of docs/dcgm.md, which come from the product's own: `make docs`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from gpuwarden.exposition import dcgm_fields
from gpuwarden.exposition.dcgm_events import EVENT_ROW_BY_KEY
from gpuwarden.exposition.dcgm_fields import Field, default_counters, fields, keys
from gpuwarden.exposition.dcgm_rows import ROW_BY_KEY

PAGE = Path(__file__).with_name("dcgm.md")
ALIASES = Path(dcgm_fields.__file__).with_name("data") / "dcgm_aliases.csv"

_NVSWITCH = "an NVSwitch is no NVML device; its errors are SXids in the kernel log: `gpuwarden_sxid_errors_total`"
REASONS: tuple[tuple[str, str], ...] = (  # of a canonical name: the first pattern that is found in it
    ("DCGM_EXP_GPU_HEALTH", "health is judged by findings: `gpuwarden_gpu_health`, `gpuwarden_finding_active`"),
    ("DCGM_EXP_P2P", "a property of the board, asked once: `nvidia-smi topo -p2p n`"),
    (r"PROF_.*(CYCLES|BYTES)\w*_TOTAL", "GPM totals of the newest drivers; one that does not know them may refuse the "
     "whole request"),
    ("NVSWITCH|SXID", _NVSWITCH),
    ("CONNECTX|PCIE_.*CORRECTABLE", "of the kernel's statistics; AER totals are `gpuwarden_gpu_pcie_aer_errors_total`"),
    ("VGPU|VIRTUAL_MODE|FBC", "virtual GPUs are not looked at"),
    ("DIAG", "results of `dcgmi diag`, which is not run"),
    ("_CPU_|_AFFINITY|SYSIO|MODULE_POWER|C2C", "Grace CPU, its modules and links"),
    ("PWR_SMOOTHING|POWER_PROFILE", "settings of power smoothing and power profiles; not read"),
    ("NVLINK_.*(BER|FEC|PPCNT|PPRM|PACKET|SYMBOL)", "NVLink 5 physical-layer detail beyond what is judged"),
    ("NVLINK_.*(THROUGHPUT|BYTES)", "traffic is read for all links together, not by link"),
    ("NVLINK_", "an NVLink counter that is not read in this form"),
    ("PROF_", "known to DCGM's profiling module only"),
    ("FABRIC|IMEX|PLATFORM", "fabric and chassis identity; its state is not read as a number"),
    ("MIG_", "a structure, no number; instances have rows of their own"),
    ("ECC_.*_(CBU|L1|L2|REG|SHM|TEX)$", "places that only older boards count apart; DRAM and SRAM are there"),
    ("ECC_PENDING|COMPUTE_MODE|AUTOBOOST|CC_MODE|GPM_SUPPORT|INFOROM|CUDA_|UNREPAIRABLE", "a setting or a fact that "
     "nobody graphs; not read"),
    ("CLOCKS_SUPPORTED|SUPPORTED_CLOCKS|ACCOUNTING|ENC_STATS|TOPOLOGY|SYNC_BOOST|CLOCKS_VIOLATION|PCI_|PROCESS_NAME|BIND_EVENT|INTERNAL"
     "|FIELD_UNKNOWN|FIRST_|LAST_", "a list, a structure, an event or a bookkeeping name; no number for a series"),
)  # fmt: skip


def reason(name: str) -> str:
    """Return why a field has no source. Raises: LookupError for one that nobody gave a thought to."""
    for pattern, why in REASONS:
        if re.search(pattern, name):
            return why
    raise LookupError(name)


def has_source(name: str) -> bool:
    """Return whether this product has a value for a name."""
    key = keys()[name]
    return key in ROW_BY_KEY or key in EVENT_ROW_BY_KEY


def canonical_names() -> tuple[str, ...]:
    """Return one name for each field that no shipped file or dashboard mentions."""
    mentioned = {field.key for field in fields().values()}
    with ALIASES.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["name"] == row["canonical_4_6"]]
    return tuple(row["name"] for row in rows if int(row["field_id"]) not in mentioned)


def blocks() -> dict[str, str]:
    """Return what stands between the marks of the page, by mark."""
    default = "".join(f'{each.name}, {each.type},"{each.help}"\n' for each in default_counters())
    shown = "".join(_row(field) for field in fields().values() if has_source(field.name))
    others = ", ".join(f"`{name}`" for name in canonical_names() if has_source(name))
    grouped: dict[str, list[str]] = {}
    for name in canonical_names():
        if not has_source(name):
            grouped.setdefault(reason(name), []).append(name)
    return {
        "default set": f"```csv\n{default}```\n",
        "fields": _head("field", "type", "unit", "default", "source", "on") + shown + f"\nBeyond those: {others}.\n",
        "absent": _head("field", "why not")
        + "".join(f"| {name} | {reason(name)} |\n" for name in fields() if not has_source(name)),
        "rest": _head("names", "such as", "why not")
        + "".join(f"| {len(names)} | {names[0]} | {why} |\n" for why, names in grouped.items()),
    }


def page(text: str) -> str:
    """Return the page with everything between its marks made anew."""
    for mark, block in blocks().items():
        begin, end = f"<!-- {mark} -->\n", "<!-- end -->\n"
        before, _, rest = text.partition(begin)
        text = before + begin + block + end + rest.partition(end)[2]
    return text


def _head(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"


def _row(field: Field) -> str:
    cells: Iterable[str] = (field.name, field.type, field.unit, field.default, field.source, field.where)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
