"""Memory: errors, and what is left to repair them with. Absent on cards without ECC: no verdict there."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, judge
from gpuwarden.model.finding import Verdict
from gpuwarden.model.snapshot import NodeState


def _uncorrected(_: Context, count: float) -> Outcome:
    return {"uncorrected_errors": count} if count > 0 else None


def _storm(context: Context, _: float) -> Outcome:
    window = context.gpu.windows.get("ecc_corrected_volatile")
    rate = window.rate if window is not None else None
    if window is None or rate is None or window.span_seconds < 60.0:
        return None
    hourly = rate * 3600.0
    if hourly <= context.thresholds["errors_per_hour"] or window.grown < 2:
        return None
    return {"errors_per_hour": round(hourly, 1), "errors": window.grown, "window_seconds": round(window.span_seconds)}


def _flag(name: str) -> Rule:
    """Return a rule that fires while a yes-or-no reading says yes."""
    return Rule(f"memory.{name}", (_FLAGS[name],), lambda _, value: {_FLAGS[name]: int(value)} if value else None)


_FLAGS = {
    "sram_threshold": "sram_threshold_exceeded",
    "row_remap_pending": "row_remap_pending",
    "row_remap_failed": "row_remap_failed",
    "retired_pages_pending": "retired_pages_pending",
}


def _spares(_: Context, banks: tuple[float, ...]) -> Outcome:
    without = banks[-1] if len(banks) == 5 else 0
    return {"banks_without_spares": without} if isinstance(without, int | float) and without > 0 else None


def _retired(context: Context, single: float, double: float) -> Outcome:
    pages = single + double
    return {"retired_pages": pages} if pages >= context.thresholds["pages"] else None


def _ecc_off(_: Context, mode: float, default: float) -> Outcome:
    return {"ecc_mode": int(mode), "ecc_mode_default": int(default)} if default and not mode else None


RULES = (
    Rule("memory.ecc_uncorrected", ("ecc_uncorrected_volatile",), _uncorrected),
    Rule("memory.ecc_corrected_storm", ("ecc_corrected_volatile",), _storm),
    *(_flag(name) for name in _FLAGS),
    Rule("memory.row_remap_spares_low", ("row_remap_banks",), _spares),
    Rule("memory.retired_pages_limit", ("retired_pages_sbe", "retired_pages_dbe"), _retired),
    Rule("memory.ecc_disabled", ("ecc_mode", "ecc_mode_default"), _ecc_off),
)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about memory."""
    yield from judge(RULES, node)
