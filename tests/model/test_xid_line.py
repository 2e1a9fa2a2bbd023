"""What Xid lines say beyond their number: NVLink words, recovery actions; by table, by value, by driver version."""

from __future__ import annotations

import pytest

from gpuwarden.model.kernel_message import ParsedLine, parse_message
from gpuwarden.model.nvlink4 import Cause, causes
from gpuwarden.model.nvlink5 import NVLINK5_XIDS, Layout, layout_of, read_words, rules_of
from gpuwarden.model.severity import EventClass, Severity
from gpuwarden.model.xid_line import Read, advice_of, read_line

OLD, NEW = "570.124.06", "580.82.07"


def line(rest: str) -> ParsedLine:
    """Return the parsed Xid line that ends so."""
    found = parse_message(f"NVRM: Xid (PCI:0008:01:00): {rest}")
    assert found is not None
    return found


def read(rest: str, driver: str) -> Read:
    """Return what an Xid line that ends so says, written by that driver."""
    parsed = line(rest)
    assert parsed.code is not None
    return read_line(parsed.code, parsed.fields, driver)


def nvlink5(code: int, unit: str, intr_info: int, status: int, link: int = 3) -> str:
    return f"{code}, {unit} Fatal XC0 i0 Link {link} ({intr_info:#010x} {status:#010x} 0x0 0x0 0x0 0x0)"


def test_every_row_of_the_nvlink5_table_is_found_by_its_own_words_in_both_layouts() -> None:
    """94 rows; each decodes to what it asks for, in the bits of each driver branch, whatever unit name is printed."""
    rows = [rule for code in NVLINK5_XIDS for rule in rules_of(code)]
    assert len(rows) == 94
    for rule in rows:
        for layout, driver in ((Layout.V1, OLD), (Layout.V2, NEW)):
            for unit in rule.units:
                words = f"{rule.bits[layout][1]:#x} {rule.error_status:#x}"
                found = read_words(rule.xid, {"unit": unit, "link": "1", "words": words}, driver)
                assert found is not None
                assert found.rule is not None, (rule, layout)
                assert found.rule.immediate == rule.immediate
                assert found.rule.investigatory == rule.investigatory


@pytest.mark.parametrize(
    ("driver", "layout"),
    [("535.230.02", Layout.V1), ("570.211.01", Layout.V1), ("575.51.02", Layout.V2), ("610.43.02", Layout.V2)],
)
def test_the_drivers_branch_says_where_the_sub_code_is(driver: str, layout: Layout) -> None:
    """The bits moved with branch 575."""
    assert layout_of(driver) is layout


@pytest.mark.parametrize("driver", ["", "unknown", "-1", "٥٧٥.1"])
def test_a_version_nobody_can_read_names_no_layout(driver: str) -> None:
    """No guess from what is not a number."""
    assert layout_of(driver) is None


@pytest.mark.parametrize(
    ("rest", "reason", "severity", "event_class"),
    [
        pytest.param(nvlink5(149, "NETIR_LINK_EVT", 0x021425C6, 0), 0x21, Severity.WARNING, EventClass.RESET, id="a"),
        pytest.param(nvlink5(149, "NETIR_LINK_EVT", 0x004505C6, 0), 0x04, Severity.CRITICAL, EventClass.RESET, id="b"),
        pytest.param(
            nvlink5(149, "NETIR_BER_EVENT", 0x00086226, 1), None, Severity.WARNING, EventClass.APPLICATION, id="ber"
        ),
        pytest.param(
            nvlink5(145, "RLW_SRC_TRACK", 0x040988E2, 8), None, Severity.WARNING, EventClass.APPLICATION, id="154"
        ),
        pytest.param(
            nvlink5(149, "NETIR", 0x000FE406, 0, -1), None, Severity.CRITICAL, EventClass.RESET, id="all-links"
        ),
        pytest.param(
            nvlink5(149, "NETIR_LINK_EVT", 0x0260_05C6, 0), 0x26, Severity.INFO, EventClass.APPLICATION, id="on-purpose"
        ),
    ],
)
def test_the_worked_examples(rest: str, reason: int | None, severity: Severity, event_class: EventClass) -> None:
    """Lines of real GB200 machines and their meaning; the word Fatal in them says nothing."""
    found = read(rest, OLD)
    assert (found.severity, found.event_class, found.counted_only) == (severity, event_class, False)
    assert found.evidence.get("link_down_reason") == (None if reason is None else f"{reason:#04x}")


def test_a_peers_fault_is_not_blamed_on_the_gpu_that_reports_it() -> None:
    """The victim says so in its evidence, and the advice sends nobody to replace it."""
    found = read(nvlink5(149, "NETIR_LINK_EVT", 0x021425C6, 0, link=1), OLD)
    assert found.evidence["blame"] == "peer"
    assert "other end of the link" in found.advice
    assert "victim" in found.advice


def test_the_layout_is_not_found_by_trial() -> None:
    """Words that fit the old bits only mean nothing to a new driver: no row, and that is said."""
    rest = nvlink5(149, "NETIR_LINK_EVT", 0x021425C6, 0)
    found = read(rest, NEW)
    assert (found.severity, found.evidence["decoded"]) == (None, "no row of the table fits these words")
    assert found.evidence["link_down_reason"] == "0x21"
    unknown = read(rest, "")
    assert unknown.evidence["driver"] == "unknown: read as the one layout that fits"
    assert unknown.evidence["blame"] == "peer"


def test_what_the_table_calls_ignorable_now_and_later_is_only_counted() -> None:
    """Corrected errors of a link are no finding."""
    assert read(nvlink5(144, "SAW_MVB", 0x21, 0x4), OLD).counted_only
    assert read(nvlink5(144, "SAW_MVB", 0x01, 0x4), NEW).counted_only
    assert not read(nvlink5(144, "SAW_MVB", 0x21, 0x2), OLD).counted_only


@pytest.mark.parametrize("words", ["0x1", "0xffffffffffffffffffffffff 0x1", "0x0 0x0 0x0"])
def test_words_that_fit_nothing_are_said_to_fit_nothing(words: str) -> None:
    """One word too few, too long a number, an unknown sub-code: the kind's own severity stands."""
    found = read_line(144, {"unit": "SAW_MVB", "link": "1", "words": words}, OLD)
    assert (found.severity, found.counted_only) == (None, False)
    assert found.told


def test_every_row_has_advice_in_words() -> None:
    """No word of the vendor's is left untranslated."""
    for code in NVLINK5_XIDS:
        for rule in rules_of(code):
            assert advice_of(rule)[0].isupper()
            assert "_" not in advice_of(rule)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", (Cause.MECHANICAL,)),
        ("0x200000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", (Cause.SIGNAL_INTEGRITY,)),
        ("0x0, 0x0, 0x1, 0x0, 0x0, 0x0, 0x0", (Cause.ECC,)),
        ("0x0, 0x0, 0x0, 0x10000, 0x0, 0x0, 0x0", (Cause.SYMPATHETIC,)),
        ("0x0, 0x0, 0x0, 0x0, 0x240000, 0x0, 0x0", (Cause.ECC,)),
        ("0x100110, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", (Cause.ECC, Cause.MECHANICAL, Cause.SYMPATHETIC)),
        ("0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", ()),
        ("0x10000", (Cause.MECHANICAL,)),
    ],
)
def test_the_registers_of_an_xid_74(words: str, found: tuple[Cause, ...]) -> None:
    """Bits of the numbered registers, the gravest cause first; all zero says nothing."""
    assert causes(words) == found


def test_an_xid_74_that_only_follows_the_other_end_is_less_than_critical() -> None:
    """A sympathetic error is the other end's; an undecodable one keeps the weight of its kind."""
    rest = "74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 3({}, 0x0, 0x0, 0x0, 0x0)"
    assert read(rest.format("0x100000"), OLD).severity is Severity.WARNING
    assert read(rest.format("0x10000"), OLD).severity is None
    assert read(rest.format("0x0"), OLD).evidence["decoded"] == "no known bit is set"


@pytest.mark.parametrize(
    ("target", "severity"),
    [
        ("0x0 (None)", None),
        ("0x1 (GPU Reset Required)", Severity.CRITICAL),
        ("0x1 (PF FLR)", Severity.CRITICAL),
        ("0x2 (Node Reboot Required)", Severity.CRITICAL),
        ("0x2 (OS Reboot)", Severity.CRITICAL),
        ("0x3 (Drain P2P)", Severity.WARNING),
        ("0x4 (Drain and Reset)", Severity.WARNING),
        ("0x5 (Recover IMEX Domain)", Severity.CRITICAL),
        ("0x2a (None)", Severity.CRITICAL),
    ],
)
def test_a_recovery_action_is_judged_by_its_value_not_its_label(target: str, severity: Severity | None) -> None:
    """Labels changed between drivers; a value of the future needs attention even where its label says None."""
    found = read(f"154, GPU recovery action changed from 0x7 (x) to {target}", NEW)
    assert found.severity is severity
    assert found.evidence["recovery_to"] == int(target.split(maxsplit=1)[0], 16)
