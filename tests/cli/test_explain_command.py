"""`gpuwarden explain`: every row of the catalogues can be explained, and mistakes are met with a hint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpuwarden.cli import main
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.xid import SXIDS, XIDS


def explain(*arguments: str) -> Result:
    """Run `gpuwarden explain ...`."""
    return CliRunner().invoke(main, ["explain", *arguments])


def explained(*arguments: str) -> Any:
    """Return what `gpuwarden explain ... --format json` prints."""
    result = explain(*arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("149", "0x21    0x0     Take work off this GPU and reset it; look at the device at the other end of the link"),
        ("154", "0x4     drain_and_reset"),
        ("74", "8 9 12 16 17 24 28       mechanical or connector"),
    ],
)
def test_what_the_words_of_a_line_mean_is_a_table(code: str, said: str) -> None:
    """Xids whose line says more than their number show how it is read."""
    assert said in CliRunner().invoke(main, ["explain", "xid", code]).stdout


def test_an_xid_says_what_it_means_what_is_done_and_who_says_so() -> None:
    """For Xid 79: meaning, advice, the vendor's bucket, our finding and what ends it, the source."""
    text = explain("xid", "79").stdout
    for part in ("PCIe", "reboot", "RESTART_BM", "xid.xid_79", "critical", "source"):
        assert part in text


@pytest.mark.parametrize("code", sorted(XIDS))
def test_every_xid_is_explained(code: int) -> None:
    """No row of the catalogue makes it fail, and none is without meaning, advice and source."""
    found = explained("xid", str(code))
    assert found["code"] == code
    assert all(found[name] for name in ("summary", "advice", "source"))


def test_an_unknown_xid_is_said_to_be_unknown() -> None:
    """A newer driver's code is explained as far as that goes, never as harmless."""
    found = explained("xid", "4711")
    assert found["known"] is False
    assert found["finding"]["kind"] == "xid.xid_unknown"


def test_an_xid_that_is_only_counted_says_so() -> None:
    """Xid 43 follows from another code: counted, no finding."""
    assert explained("xid", "43")["finding"] is None
    assert "opens no finding" in explain("xid", "43").stdout


def test_sxids_say_which_finding_they_open() -> None:
    """Fatal and not; the catalogue's fatal word decides."""
    assert explained("sxid", "20034")["findings"] == ["xid.sxid_fatal"]
    assert "data-link layer" in explain("sxid", "20034").stdout


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_finding_is_explained(kind: str) -> None:
    """Title, meaning and how to change it, for each row of the catalogue."""
    result = explain("finding", kind)
    assert result.exit_code == 0
    assert KINDS[kind].title in result.stdout
    assert f'[checks."{kind}"]' in result.stdout


def test_a_kind_may_be_named_without_its_room() -> None:
    """The part behind the dot is enough where one room has it."""
    assert explained("finding", "gpu_lost")["kind"] == "presence.gpu_lost"


def test_a_kind_that_does_not_exist_is_met_with_a_hint() -> None:
    """Exit 2 and the nearest name."""
    result = explain("finding", "thermal.core_near_limt")
    assert result.exit_code == 2
    assert "thermal.core_near_limit" in result.stderr


@pytest.mark.parametrize(
    ("what", "count"),
    [
        pytest.param("xid", len(XIDS), id="xid"),
        pytest.param("sxid", len(SXIDS), id="sxid"),
        pytest.param("finding", len(KINDS), id="finding"),
    ],
)
def test_without_a_name_the_catalogue_is_listed(what: str, count: int) -> None:
    """Every row, as JSON and as a table without trailing blanks."""
    assert len(explained(what)) == count
    lines = explain(what).stdout.splitlines()
    assert len(lines) == count + 1
    assert all(line == line.rstrip() for line in lines)
