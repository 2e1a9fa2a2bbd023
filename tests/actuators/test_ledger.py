"""The ledger: what was begun is never begun again, and its rates are counted over restarts and clock jumps."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.ledger import DAY_SECONDS, Ledger, LedgerError, digest_of
from gpuwarden.model.case import ActionKind, Intent, Outcome
from gpuwarden.model.stamp import Stamp

NOW = Stamp("boot", 5_000.0, 1_790_000_000.0)
RESET = Intent(id="c1/0", case="c1", action=ActionKind.RESET, made=NOW, bdf="0000:3b:00.0")


def test_an_id_is_begun_once(tmp_path: Path) -> None:
    """Beginning it again fails, also for a process that comes later."""
    ledger = Ledger(tmp_path / "l.db")
    assert ledger.find(RESET.id) is None
    ledger.begin(RESET, NOW)
    with pytest.raises(LedgerError):
        ledger.begin(RESET, NOW)
    ledger.end(RESET.id, Outcome.DONE, "as asked", NOW)
    record = Ledger(tmp_path / "l.db").find(RESET.id)
    assert record is not None
    assert (record.outcome, record.detail, record.digest) == (Outcome.DONE, "as asked", digest_of(RESET))
    assert digest_of(replace(RESET, bdf="0000:3c:00.0")) != record.digest


def test_what_a_crash_left_begun_is_an_effect_unknown(tmp_path: Path) -> None:
    """Nobody knows whether it was done: that is its outcome, for good."""
    Ledger(tmp_path / "l.db").begin(RESET, NOW)
    record = Ledger(tmp_path / "l.db").find(RESET.id)
    assert record is not None
    assert record.outcome is Outcome.EFFECT_UNKNOWN


@pytest.mark.parametrize(
    ("now", "counted"),
    [
        pytest.param(Stamp("boot", 5_000.0 + DAY_SECONDS - 1, 0.0), 1, id="same-boot-wall-set-back"),
        pytest.param(Stamp("boot", 5_000.0 + 60, 4e9), 1, id="same-boot-wall-set-forward"),
        pytest.param(Stamp("boot", 5_000.0 + DAY_SECONDS, NOW.wall), 0, id="a-day-of-uptime"),
        pytest.param(Stamp("next", 10.0, NOW.wall + 100), 1, id="next-boot"),
        pytest.param(Stamp("next", 10.0, 946_684_800.0), 1, id="next-boot-in-2000"),
        pytest.param(Stamp("next", 10.0, NOW.wall + DAY_SECONDS), 0, id="next-boot-next-day"),
    ],
)
def test_rates_are_counted_by_the_clock_that_can_prove_an_age(tmp_path: Path, now: Stamp, counted: int) -> None:
    """Within a boot the clock that nobody can set counts; after it a wall clock that went back proves nothing."""
    ledger = Ledger(tmp_path / "l.db")
    ledger.begin(RESET, NOW)
    assert ledger.begun_within_a_day([ActionKind.RESET], RESET.bdf, now) == counted
    assert ledger.begun_within_a_day([ActionKind.RESET], None, now) == counted
    assert ledger.begun_within_a_day([ActionKind.RESET], "0000:3c:00.0", now) == 0
    assert ledger.begun_within_a_day([ActionKind.REBOOT], None, now) == 0


def test_what_was_refused_does_not_count(tmp_path: Path) -> None:
    """It changed nothing."""
    ledger = Ledger(tmp_path / "l.db")
    ledger.begin(RESET, NOW)
    ledger.end(RESET.id, Outcome.REFUSED, "", NOW)
    assert ledger.begun_within_a_day([ActionKind.RESET], RESET.bdf, NOW) == 0


def test_a_ledger_of_a_later_version_or_another_content_is_not_touched(tmp_path: Path) -> None:
    """Neither is read as an empty one."""
    with sqlite3.connect(tmp_path / "later.db") as later:
        later.execute("PRAGMA user_version = 9")
    (tmp_path / "other.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    for name in ("later.db", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(LedgerError):
            Ledger(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
