"""Every recognised line can be explained to a person."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gpuwarden.model.gpu import RECOVERY_ACTIONS
from gpuwarden.model.kernel_advice import tell
from gpuwarden.model.kernel_log import parse_line
from gpuwarden.model.kernel_message import parse_message

TABLE = Path(__file__).parents[1] / "data" / "kernel_log_lines.tsv"


def test_every_recognised_line_of_the_table_has_meaning_and_advice() -> None:
    """No line kind, severity or code is without words."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        recognised = [found for row in rows if (found := parse_line(row["line"]))]
    assert len(recognised) > 150
    assert all(told.meaning and told.advice for told in map(tell, recognised))


@pytest.mark.parametrize("value", [*RECOVERY_ACTIONS, 99])
def test_a_recovery_action_is_told_by_its_target(value: int) -> None:
    """Xid 154 means what its target value says; a value of the future is said to be unknown, never none."""
    line = parse_message(
        f"NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to {value:#x} (X)"
    )
    assert line is not None
    told = tell(line)
    assert told.meaning.endswith(RECOVERY_ACTIONS.get(value, "unknown"))
    assert told.advice


def test_an_echo_points_at_its_cause() -> None:
    """A 45 that names its cause advises to look there."""
    line = parse_message("NVRM: Xid (PCI:0000:3b:00): 45, pid=7, name=a, Ch 00000002 caused by previous Xid 145")
    assert line is not None
    assert tell(line).advice == "See Xid 145."


def test_an_unknown_xid_is_said_to_be_unknown() -> None:
    """A code newer than this release is never called harmless."""
    line = parse_message("NVRM: Xid (PCI:0000:3b:00): 9876, whatever")
    assert line is not None
    assert "Not in this release" in tell(line).meaning
