"""Memory: errors, and what is left to repair them with. Absent on cards without ECC: no verdict there."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Graded, Outcome, Rule, as_one, judge, number
from gpuwarden.model.finding import Evidence, Verdict
from gpuwarden.model.gpu import ON_CHIP_MEMORIES
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import NodeState, Window

_HOUR_SECONDS, _DAY_SECONDS = 3600.0, 86400.0
_BURST_SECONDS = 60.0
_BASELINE = "ecc_corrected_baseline"
_BANK_GRADES = 5  # max, high, partial, low, none


def _uncorrected(context: Context, count: float) -> Outcome:
    if count <= 0:
        return None
    return {"uncorrected_errors": count, **_by_memory(context, "ecc_uncorrected_volatile")}


def _by_memory(context: Context, total: str) -> Evidence:
    """Return in which memories the errors of a total were, as far as the board tells them apart."""
    counts = {
        name: number(context.gpu.readings.value(f"{total}_{name}")) for name in ("dram", "sram", *ON_CHIP_MEMORIES)
    }
    return {f"{name}_errors": count for name, count in counts.items() if count}


def _total(memory: str) -> Rule:
    """Return a rule about how many corrected errors one kind of memory has had since the driver loaded."""
    reading, limit = f"ecc_corrected_volatile_{memory}", f"{memory}_errors"

    def test(context: Context, count: float) -> Outcome:
        return (
            {limit: count, f"{limit}_limit": context.thresholds[limit]} if count > context.thresholds[limit] else None
        )

    return Rule("memory.ecc_corrected_storm", (reading,), test)


def _storm(context: Context, total: float) -> Outcome:
    """Judge the rate of corrected errors: of the last minute or two, of the last hour or two, and its trend."""
    windows, limits = context.gpu.windows, context.thresholds
    hour, burst = windows.get("ecc_corrected_volatile"), windows.get("ecc_corrected_burst")
    if hour is None or burst is None:
        return None
    per_second, hourly = _rate(burst, _BURST_SECONDS), _rate(hour, _HOUR_SECONDS) * _HOUR_SECONDS
    evidence: Evidence = {
        "errors_per_hour": round(hourly, 1),
        "errors": hour.grown,
        "errors_since_load": total,
        "window_seconds": round(hour.span_seconds),
        **_by_memory(context, "ecc_corrected_volatile"),
    }
    base = windows.get(_BASELINE)
    before = base.rate if base is not None and base.span_seconds >= 2 * _HOUR_SECONDS else None
    if base is not None and before is not None:
        evidence["baseline_errors_per_hour"] = round(before * _HOUR_SECONDS, 1)
        evidence["baseline_window_seconds"] = round(base.span_seconds)
    if per_second > limits["failing_errors_per_second"]:
        evidence |= {"errors_per_second": round(per_second, 1), "burst_window_seconds": round(burst.span_seconds)}
        return Graded(Severity.CRITICAL, evidence)
    if hourly > limits["errors_per_hour"]:
        return evidence
    left = _hours_to_limit(hour, base, before, limits) if base is not None and before is not None else None
    return None if left is None else Graded(Severity.INFO, evidence | {"hours_until_limit": round(left, 1)})


def _rate(window: Window, period: float) -> float:
    """Return growth per second over at least a period, so that a few errors at once are no rate yet."""
    return window.grown / max(window.span_seconds, period)


def _hours_to_limit(hour: Window, base: Window, before: float, limits: dict[str, float]) -> float | None:
    """Return in how many hours a rate that grows reaches the limit, None for one that does not or takes too long.

    `before` is the baseline's rate; both rates are averages, so they are half their windows apart.
    """
    now = _rate(hour, _HOUR_SECONDS)
    apart = (base.span_seconds - hour.span_seconds) / 2
    if hour.grown < limits["ramp_errors"] or now < limits["ramp_ratio"] * before or apart <= 0 or now <= before:
        return None
    growth = (now - before) / apart
    hours = (limits["errors_per_hour"] / _HOUR_SECONDS - now) / growth / _HOUR_SECONDS
    return hours if hours <= limits["ramp_horizon_hours"] else None


def _flag(kind: str, reading: str) -> Rule:
    """Return a rule that fires while a yes-or-no reading says yes."""
    return Rule(f"memory.{kind}", (reading,), lambda _, value: {reading: int(value)} if value else None)


_FLAGS = (
    ("sram_threshold", "sram_threshold_exceeded"),
    ("row_remap_pending", "row_remap_pending"),
    ("row_remap_pending", "channel_repair_pending"),
    ("row_remap_pending", "tpc_repair_pending"),
    ("row_remap_failed", "row_remap_failed"),
    ("row_remap_failed", "unrepairable_memory"),
    ("retired_pages_pending", "retired_pages_pending"),
)


def _rows_used_up(context: Context, rows: float) -> Outcome:
    return {"remapped_rows_uncorrected": rows} if rows >= context.thresholds["uncorrectable_rows"] else None


def _spares(_: Context, banks: tuple[float, ...]) -> Outcome:
    low, without = (number(bank) or 0.0 for bank in (banks[-2:] if len(banks) == _BANK_GRADES else (0, 0)))
    if without > 0:
        return {"banks_without_spares": without, "banks_with_few_spares": low}
    return Graded(Severity.INFO, {"banks_with_few_spares": low}) if low > 0 else None


def _retired(context: Context, single: float, double: float) -> Outcome:
    pages = single + double
    return {"retired_pages": pages} if pages >= context.thresholds["pages"] else None


def _still_retiring(context: Context, double: float, last: float) -> Outcome:
    """Judge DCGM's second rule by the time the board itself keeps of each page: it survives every restart."""
    days = (context.node.now.wall - last) / _DAY_SECONDS
    if double <= context.thresholds["double_bit_pages"] or days > context.thresholds["recent_days"]:
        return None
    return {"retired_pages_double_bit": double, "last_retired_days_ago": round(max(0.0, days), 1)}


def _ecc_off(_: Context, mode: float, default: float) -> Outcome:
    return {"ecc_mode": int(mode), "ecc_mode_default": int(default)} if default and not mode else None


RULES = (
    Rule("memory.ecc_uncorrected", ("ecc_uncorrected_volatile",), _uncorrected),
    Rule("memory.ecc_corrected_storm", ("ecc_corrected_volatile",), _storm),
    _total("dram"),
    _total("sram"),
    *(_flag(kind, reading) for kind, reading in _FLAGS),
    Rule("memory.row_remap_failed", ("remapped_rows_uncorrected",), _rows_used_up),
    Rule("memory.row_remap_spares_low", ("row_remap_banks",), _spares),
    Rule("memory.retired_pages_limit", ("retired_pages_sbe", "retired_pages_dbe"), _retired),
    Rule("memory.retired_pages_limit", ("retired_pages_dbe", "retired_pages_dbe_timestamp_seconds"), _still_retiring),
    Rule("memory.ecc_disabled", ("ecc_mode", "ecc_mode_default"), _ecc_off),
)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about memory."""
    yield from as_one(judge(RULES, node))
