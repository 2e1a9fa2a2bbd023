"""Observations as lines of JSON."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuwarden.model.codec import decode, encode
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.observation import GpuSampled, Stamp
from support.observations import OBSERVATIONS, of


@pytest.mark.parametrize("kind", OBSERVATIONS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_observation_reads_back_as_it_was(kind: type, data: st.DataObject) -> None:
    """Whatever the engine can be told survives a capture: types, reasons for absence, whole and broken numbers."""
    observation = data.draw(of(kind))
    line = encode(observation)
    assert b"\n" not in line
    back = decode(line)
    assert type(back) is kind
    assert back == observation
    assert encode(back) == line


def test_a_reading_keeps_its_type_and_the_reason_it_is_absent() -> None:
    """A whole number stays whole, a measured one stays a float, a missing one says why, also inside a vector."""
    at = Stamp("boot", 1.5, 2.5)
    values = {"processes": 3, "core_celsius": 3.0, "power_watts": Missing.TIMED_OUT, "nvlink_up": (1, Missing.UNKNOWN)}
    back = decode(encode(GpuSampled(at=at, index=0, bdf="0000:01:00.0", lane=Lane.FAST, values=values)))
    assert isinstance(back, GpuSampled)
    assert [type(value) for value in back.values.values()] == [int, float, Missing, tuple]
    assert back.values == values


@pytest.mark.parametrize(
    "line", [b"", b"{", b"{}", b'{"type":"Nothing"}', b'{"type":"Tick"}', b'{"type":"Tick","at":[1,2,3]}']
)
def test_what_is_no_observation_is_refused(line: bytes) -> None:
    """A line that holds something else raises instead of becoming a half-filled record."""
    with pytest.raises(msgspec.DecodeError):
        decode(line)
