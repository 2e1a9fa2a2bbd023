"""What an NVLink5 Xid (144 to 150) says in its words, by the vendor's own table: `data/nvlink5_xids.csv`.

The first word (intrInfo) holds the sub-code, in bits that moved with driver branch 575, and for a lost link the reason
in bits 25:20; the second is the error status. Which bits hold the sub-code is known from the driver's version. Where
that is not known (a saved log) both are looked at, and a rule counts only where nothing contradicts it.
"""

from __future__ import annotations

import csv
import enum
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import msgspec

NVLINK5_XIDS = range(144, 151)
_TABLE = Path(__file__).with_name("data") / "nvlink5_xids.csv"
_MOVED_IN_BRANCH = 575
_LINK_DOWN_XID = 149
_REASON_SHIFT, _REASON_MASK = 20, 0x3F
_LINK_DOWN_UNITS = frozenset({"NETIR_LINK_EVT", "NETIR_LINK_DOWN"})


class Layout(enum.Enum):
    """Which bits of intrInfo hold the sub-code."""

    V1 = "v1"
    """Bits 9:5, above code - 143: drivers before branch 575."""
    V2 = "v2"
    """Bits 6:0: branch 575 and newer."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `immediate` and `investigatory` are the vendor's words."""

    xid: int
    units: tuple[str, ...]  # names under which the driver prints this unit
    bits: dict[Layout, tuple[int, int]]  # intrInfo & mask == value
    error_status: int
    immediate: str
    investigatory: str
    second_action: str
    hw_sw: str

    @property
    def about_link_down(self) -> bool:
        """Whether it is about a link that went down, for the reason of `link_down_reason`."""
        return not _LINK_DOWN_UNITS.isdisjoint(self.units)

    @property
    def link_down_reason(self) -> int:
        """What bits 25:20 of intrInfo are."""
        return self.bits[Layout.V2][1] >> _REASON_SHIFT & _REASON_MASK

    @property
    def blames_peer(self) -> bool:
        """Whether the device at the other end of the link is at fault, and the one that reports its victim."""
        return "PEER" in self.investigatory

    @property
    def resets(self) -> bool:
        """Whether the link works again only after a GPU reset."""
        return self.immediate == "RESET_GPU"

    @property
    def ignorable(self) -> bool:
        """Whether there is nothing to do, now or later."""
        return self.immediate == self.investigatory == "IGNORE"


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """One line decoded. `layout` is None where the driver's version is not known; `rule` None where no row fits."""

    unit: str
    layout: Layout | None
    link: str
    reason: int | None  # why a link went down; None for lines that are not about that
    rule: Rule | None


def layout_of(driver: str) -> Layout | None:
    """Return where a driver of this version puts the sub-code; None for a version that cannot be read."""
    branch = driver.partition(".")[0]
    if not (branch.isascii() and branch.isdigit()):
        return None
    return Layout.V2 if int(branch[:6]) >= _MOVED_IN_BRANCH else Layout.V1


def read_words(code: int, fields: Mapping[str, str], driver: str) -> Words | None:
    """Return what the words of a line say, None for a line without any. `fields` are those of the parsed line."""
    if code not in NVLINK5_XIDS or "words" not in fields:
        return None
    words = [int(word, 16) for word in fields["words"].split()]
    unit, layout = fields.get("unit", ""), layout_of(driver)
    about_link_down = code == _LINK_DOWN_XID and unit in _LINK_DOWN_UNITS
    reason = words[0] >> _REASON_SHIFT & _REASON_MASK if about_link_down else None
    fitting = [rule for rule in _rules() if _fits(rule, code, unit, words, layout)]
    return Words(unit=unit, layout=layout, link=fields.get("link", ""), reason=reason, rule=_agreed(fitting))


def rules_of(code: int) -> tuple[Rule, ...]:
    """Return the rows of one Xid, in the table's order."""
    return tuple(rule for rule in _rules() if rule.xid == code)


def _fits(rule: Rule, code: int, unit: str, words: list[int], layout: Layout | None) -> bool:
    if rule.xid != code or unit not in rule.units or words[1:2] != [rule.error_status]:
        return False
    layouts: Iterable[Layout] = Layout if layout is None else (layout,)
    return any(words[0] & mask == value for mask, value in (rule.bits[each] for each in layouts))


def _agreed(fitting: list[Rule]) -> Rule | None:
    """Return the first of the rules that fit, None where they ask for different things."""
    asked = {(rule.immediate, rule.investigatory) for rule in fitting}
    return fitting[0] if len(asked) == 1 else None


@cache
def _rules() -> tuple[Rule, ...]:
    """Return the table. Raises: OSError, ValueError or KeyError when the package's own data is broken."""
    with _TABLE.open(encoding="utf-8", newline="") as lines:
        return tuple(
            Rule(
                xid=int(row["xid"]),
                units=tuple(row["unit"].split("/")),
                bits={
                    Layout.V1: (int(row["v1_mask"], 16), int(row["v1_value"], 16)),
                    Layout.V2: (int(row["v2_mask"], 16), int(row["v2_value"], 16)),
                },
                error_status=int(row["error_status"], 16),
                immediate=row["immediate"],
                investigatory=row["investigatory"],
                second_action=row["second_action"],
                hw_sw=row["hw_sw"],
            )
            for row in csv.DictReader(lines)
        )
