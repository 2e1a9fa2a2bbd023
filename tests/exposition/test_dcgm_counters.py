"""Counters files: what dcgm-exporter takes is taken, what it refuses is refused, each with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.exposition.dcgm import without_source
from gpuwarden.exposition.dcgm_counters import CountersError, parse_counters
from gpuwarden.exposition.dcgm_fields import default_counters, keys


def test_a_file_as_it_is_shipped() -> None:
    """Comments, blanks around columns, blank lines, quoted columns and Windows line ends."""
    found = parse_counters(
        "# Format\n"
        "\r\n"
        "DCGM_FI_DEV_DEC_UTIL , gauge, Decoder utilization (in %).\r\n"
        '  DCGM_FI_DEV_SM_CLOCK,  gauge ,"Clock, the ""SM"" one."\n'
        "# DCGM_FI_DEV_GPU_TEMP, gauge, off\n"
        "DCGM_FI_DRIVER_VERSION, label, Driver Version\n"
        "DCGM_EXP_XID_ERRORS_COUNT, gauge,"
    )
    assert [(each.name, each.type, each.help) for each in found] == [
        ("DCGM_FI_DEV_DEC_UTIL", "gauge", "Decoder utilization (in %)."),
        ("DCGM_FI_DEV_SM_CLOCK", "gauge", 'Clock, the "SM" one.'),
        ("DCGM_FI_DRIVER_VERSION", "label", "Driver Version"),
        ("DCGM_EXP_XID_ERRORS_COUNT", "gauge", ""),
    ]


def test_of_the_same_name_the_first_row_holds() -> None:
    """Files in the field list PCIe throughput as a gauge and again as a counter."""
    found = parse_counters("DCGM_FI_PROF_PCIE_TX_BYTES, gauge, a\nDCGM_FI_PROF_PCIE_TX_BYTES, counter, b\n")
    assert [(each.type, each.help) for each in found] == [("gauge", "a")]


@pytest.mark.parametrize("kind", ["gauge", "counter", "histogram", "summary", "label"])
def test_the_types_there_are(kind: str) -> None:
    """All five are taken."""
    assert parse_counters(f"dcgm_gpu_temp,{kind},x")[0].type == kind


@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param("DCGM_FI_DEV_GPU_TEMP, gauge", "has 2 columns", id="two-columns"),
        pytest.param("DCGM_FI_DEV_GPU_TEMP, gauge, a, b", "has 4 columns", id="four-columns"),
        pytest.param("DCGM_FI_DEV_NO_SUCH, gauge, a", "no such DCGM field: 'DCGM_FI_DEV_NO_SUCH'", id="field"),
        pytest.param("dcgm_fi_dev_gpu_temp, gauge, a", "no such DCGM field", id="case-counts"),
        pytest.param("DCGM_FI_DEV_GPU_TEMP, Gauge, a", "no such type: 'Gauge'", id="type"),
        pytest.param('DCGM_FI_DEV_GPU_TEMP, gauge, a "b"', "double quote", id="stray-quote"),
        pytest.param('DCGM_FI_DEV_GPU_TEMP, gauge,"a', "double quote", id="open-quote"),
        pytest.param(" # not a comment", "has 1 columns", id="comment-after-a-blank"),
        pytest.param("\tDCGM_FI_DEV_GPU_TEMP, gauge, a", "no such DCGM field", id="a-tab-is-no-blank"),
    ],
)
def test_a_bad_row_is_told_with_its_line(row: str, says: str) -> None:
    """Nothing is taken from a file with a mistake."""
    with pytest.raises(CountersError) as error:
        parse_counters(f"# one\nDCGM_FI_DEV_FB_USED, gauge, fine\n{row}\n")
    ((line, text),) = error.value.problems
    assert line == 3
    assert says in text


def test_all_mistakes_are_told_at_once() -> None:
    """One look at a file is enough to mend it."""
    with pytest.raises(CountersError) as error:
        parse_counters("a\nDCGM_FI_DEV_GPU_TEMP, gauge, fine\nb, gauge, c\n")
    assert [line for line, _ in error.value.problems] == [1, 3]


def test_every_name_is_known() -> None:
    """Canonical, old and lower-case names, and the base-unit fields of newer releases."""
    assert len(keys()) > 1000
    same = ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS", "dcgm_gpu_temp")
    assert {keys()[name] for name in same} == {150}
    assert keys()["DCGM_FI_DEV_FAN_SPEED_RATIO"] == 1612


def test_a_known_field_without_a_reading_is_taken_and_named() -> None:
    """A file with an NVSwitch field in it is right; the field has no source here."""
    found = parse_counters("DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, a\nDCGM_FI_DEV_GPU_TEMP, gauge, b\n")
    assert without_source(found) == ("DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT",)


@given(st.text(st.sampled_from('DCGM_FIgauge,"# \n\r\\') | st.characters(), max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is a file or a list of mistakes."""
    try:
        parse_counters(text)
    except CountersError as error:
        assert all(line >= 1 and why for line, why in error.problems)


def test_the_default_set_reads_back() -> None:
    """Written as a file, the default set is itself again."""
    file = "".join(f'{each.name}, {each.type},"{each.help}"\n' for each in default_counters())
    assert parse_counters(file) == default_counters()
