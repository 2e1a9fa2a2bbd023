"""What gpuwarden writes beside its mark, in the node's `Extra`: how far a case has come, and which slots rest. Pure.

`gpuwarden case=<id> rung=<n> attempt=<n> held=<0|1> rest=<slot>@<Unix time>,...`: it outlives a state directory that
does not survive a boot, and is what other hosts read of this one.
"""

from __future__ import annotations

import re

import msgspec

from gpuwarden.actuators.slurm_words import OURS
from gpuwarden.model.case import Intent

_INTENT = re.compile(r"(?P<case>[^/\s]+)/(?P<rung>\d+)\.(?P<attempt>\d+)(?:\.\d+)?/")
_REST = re.compile(r"(?P<slot>\d+)@(?P<until>\d+)")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a node's `Extra`. `rests` are the slots this node gave back, and until when each is not free."""

    case: str = ""
    rung: int = 0
    attempt: int = 0
    held: bool = False
    rests: dict[int, int] = {}


def may_write(extra: str) -> bool:
    """Return whether a node's `Extra` is empty or ours: anybody else's is left alone."""
    return not extra or extra == OURS.strip() or extra.startswith(OURS)


def parse_record(extra: str) -> Record:
    """Return what stands in an `Extra`; an empty record for one that is not ours. What cannot be read is skipped."""
    if not extra.startswith(OURS):
        return Record()
    fields = {key: value for key, equals, value in (word.partition("=") for word in extra.split()) if equals}
    return Record(
        case=fields.get("case", ""),
        rung=_number(fields.get("rung", "")),
        attempt=_number(fields.get("attempt", "")),
        held=fields.get("held") == "1",
        rests={int(match["slot"]): int(match["until"]) for match in _REST.finditer(fields.get("rest", ""))},
    )


def words_of(record: Record) -> str:
    """Return the `Extra` of a record; "" for an empty one."""
    words = []
    if record.case:
        words += [f"case={record.case}", f"rung={record.rung}", f"attempt={record.attempt}", f"held={record.held:d}"]
    if record.rests:
        words.append("rest=" + ",".join(f"{slot}@{until}" for slot, until in sorted(record.rests.items())))
    return OURS + " ".join(words) if words else ""


def of_intent(intent: Intent) -> Record:
    """Return where a case stands, by the id of its intent."""
    match = _INTENT.match(intent.id)
    if match is None:
        return Record(case=intent.case)
    return Record(case=intent.case, rung=int(match["rung"]), attempt=int(match["attempt"]))


def at_least(new: Record, old: Record) -> Record:
    """Return the new record, never behind an old one of the same case: the higher count wins."""
    if new.case != old.case:
        return new
    rung, attempt = max((new.rung, new.attempt), (old.rung, old.attempt))
    return msgspec.structs.replace(new, rung=rung, attempt=attempt)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0
