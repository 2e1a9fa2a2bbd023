"""Faults of memory: errors, what repairs them, and what is left for repairs."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim import kernel_lines
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import EVENT_UNCORRECTED, EVENT_XID, Fault, Node, Options

_AMPERE = 7
_DRAIN_AND_RESET = 4  # NVML recovery action
_MEMORIES = ("dram", "sram")
_DAY_SECONDS = 86400.0
_HOUR_SECONDS = 3600.0


def _memory(options: Options) -> str:
    """Return the option `memory`. Raises: InputError for one that is not counted."""
    memory = str(options["memory"])
    if memory not in _MEMORIES:
        raise InputError(f"memory is one of {', '.join(_MEMORIES)}, not {memory!r}")
    return memory


def _ecc(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.corrected_memory = _memory(options)
    knobs.corrected_per_second += float(options["per_second"])


def _ecc_begin(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    count = int(options["uncorrected"])
    if not count:
        return
    card.uncorrected_errors(count, _memory(options))
    node.event(card, EVENT_UNCORRECTED, 0)
    if not options["quiet"]:
        _tell(node, card, 48 if card.product.architecture < _AMPERE else 95)


def _ramp(knobs: Knobs, _: Card, options: Options) -> None:
    begin, end = float(options["from_per_hour"]), float(options["to_per_hour"])
    knobs.corrected_per_second += begin / _HOUR_SECONDS
    knobs.corrected_growth = (end - begin) / _HOUR_SECONDS / max(1.0, float(options["seconds"]))


def _remap(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.remap_failed = bool(options["failed"])
    knobs.remap_pending = not knobs.remap_failed and not options["rows"]
    if knobs.remap_pending and not options["quiet"]:
        knobs.recovery_action = max(knobs.recovery_action, _DRAIN_AND_RESET)


def _remap_begin(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    card.remapped_uncorrected += int(options["rows"])
    if not options["quiet"] and not options["rows"]:
        _tell(node, card, 64 if options["failed"] else 63)


def _tell(node: Node, card: Card, code: int) -> None:
    node.log(kernel_lines.xid(card, code))
    node.event(card, EVENT_XID, code)


def _spares(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.banks_low, knobs.banks_without = int(options["low"]), int(options["none"])


def _repair(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.unrepairable = bool(options["impossible"])
    knobs.channel_repair = not knobs.unrepairable


def _sram(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.sram_exceeded = True


def _ecc_off(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.ecc_off = True


def _retire(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.retirement_pending = bool(options["pending"])


def _retire_begin(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    at = node.wall() - _DAY_SECONDS * float(options["days_ago"])
    card.retired["sbe"] += [at] * int(options["single_bit"])
    card.retired["dbe"] += [at] * int(options["double_bit"])


def _needs_ecc(card: Card) -> str:
    return "" if card.product.ecc == "on" else "runs without ECC"


def _needs_remapper(card: Card) -> str:
    return "" if card.product.row_remap_banks else "has no row remapper"


def _needs_repairs(card: Card) -> str:
    return "" if card.product.repairs else "does not answer for repairs"


def _needs_sram(card: Card) -> str:
    return "" if card.product.sram_status and card.product.ecc == "on" else "has no SRAM error status"


def _needs_pages(card: Card) -> str:
    return "" if card.product.retired_pages else "retires no pages: it remaps rows, or has no ECC"


MEMORY_FAULTS = (
    Fault(
        name="ecc",
        what="ECC errors: a storm of corrected ones, or `uncorrected` of the other kind at once with their Xid "
        "(quiet=1: without it)",
        options={"per_second": 50.0, "uncorrected": 0, "memory": "dram", "quiet": 0},
        card=_ecc,
        begin=_ecc_begin,
        usable=_needs_ecc,
    ),
    Fault(
        name="ecc_ramp",
        what="corrected ECC errors whose rate grows within `seconds`, and goes on growing",
        options={"from_per_hour": 5.0, "to_per_hour": 5000.0, "seconds": 600.0},
        card=_ramp,
        usable=_needs_ecc,
    ),
    Fault(
        name="remap",
        cure="reset",
        what="a memory row waits for its remap (failed=1: it cannot be remapped; rows=N: so many were, long ago; "
        "quiet=1: found so, without its Xid)",
        options={"failed": 0, "rows": 0, "quiet": 0},
        card=_remap,
        begin=_remap_begin,
        usable=_needs_remapper,
    ),
    Fault(
        name="spares",
        what="memory banks with `low` spare rows left, and with `none`",
        options={"low": 0, "none": 1},
        card=_spares,
        usable=_needs_remapper,
    ),
    Fault(
        name="repair",
        what="a memory channel is repaired by the next reset (impossible=1: memory is beyond repair)",
        options={"impossible": 0},
        card=_repair,
        usable=_needs_repairs,
    ),
    Fault(name="sram_threshold", what="SRAM errors passed the board's threshold", card=_sram, usable=_needs_sram),
    Fault(name="ecc_off", what="somebody switched ECC off", card=_ecc_off, usable=_needs_ecc),
    Fault(
        name="retire",
        what="memory pages were retired `days_ago`, for single-bit or double-bit errors (pending=1: the next reload)",
        options={"single_bit": 0, "double_bit": 16, "days_ago": 1.0, "pending": 0},
        card=_retire,
        begin=_retire_begin,
        usable=_needs_pages,
    ),
)
