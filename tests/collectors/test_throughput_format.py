"""What answers of throughput endpoints say, in both formats, and that no answer breaks the reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.collectors.throughput_format import Figures, parse

PROMETHEUS = b"""\
# HELP tokens_per_second Tokens.
# TYPE tokens_per_second gauge
tokens_per_second{gpu="0",model="a"} 40.5
tokens_per_second{gpu="0",model="b"} 2
tokens_per_second{UUID="GPU-aa",gpu="1"} 7
tokens_per_second{gpu="2"} NaN
tokens_per_second{gpu="3"} -1
tokens_per_second_other{gpu="4"} 9
# TYPE hashes counter
hashes_total{device="nvidia0"} 100
"""


def test_samples_of_one_gpu_add_up_and_a_uuid_comes_before_an_index() -> None:
    """What is no number, or below zero, is no figure; a metric whose name goes on is another one."""
    assert parse(PROMETHEUS, "tokens_per_second") == Figures({"0": 42.5, "GPU-aa": 7.0})


def test_a_counter_is_told_by_its_type_or_its_name() -> None:
    """The caller makes a rate of it."""
    assert parse(PROMETHEUS, "hashes_total") == Figures({"nvidia0": 100.0}, cumulative=True)
    assert parse(b'frames_total{gpu="0"} 3\n', "frames_total").cumulative
    assert parse(b"m 3\nm_total 4\n", "m") == Figures({"": 3.0})
    assert parse(b"# TYPE frames counter\nframes 3\n", "frames") == Figures({"": 3.0}, cumulative=True)


JSON: list[tuple[str, Any, str, dict[str, float]]] = [
    ("a list in index order", {"rates": [1.5, 2]}, "rates", {"0": 1.5, "1": 2.0}),
    ("a list of cards by place", {"gpus": [{"hashrate": 5}, {"hashrate": 6}]}, "gpus.hashrate", {"0": 5, "1": 6}),
    (
        "a list of cards by name",
        {"gpus": [{"device_id": 3, "h": 5}, {"uuid": "GPU-a", "h": 6}]},
        "gpus.h",
        {"3": 5, "GPU-a": 6},
    ),
    ("an object by uuid", {"fps": {"GPU-a": 30.0, "GPU-b": 31.0}}, "fps", {"GPU-a": 30, "GPU-b": 31}),
    ("an object by GPU around the figure", {"0": {"fps": 30}, "1": {"fps": 31}}, "fps", {"0": 30, "1": 31}),
    ("one figure for the only GPU", {"stats": {"fps": 60}}, "stats.fps", {"": 60}),
    ("a list at the top", [{"gpu": 1, "v": 2}], "v", {"1": 2}),
    ("what is no number is left out", {"r": [1, "2", None, True, -3]}, "r", {"0": 1}),
]


@pytest.mark.parametrize(("document", "metric", "expected"), [pytest.param(*row[1:], id=row[0]) for row in JSON])
def test_json_figures_are_found_by_path_and_name_their_gpu(
    document: Any, metric: str, expected: dict[str, float]
) -> None:
    """Every documented shape."""
    assert parse(json.dumps(document).encode(), metric).by_gpu == expected


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xff\xfe", "not text"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "JSON"),
        (b"{}", "no figure of 'm'"),
        (b"", "no figure of 'm'"),
        (b"m{gpu=", "cannot be read"),
        (b'm{gpu="0"} four\n', "cannot be read"),
        (b"other 3\n", "no figure of 'm'"),
    ],
)
def test_an_answer_that_cannot_be_used_says_why(body: bytes, why: str) -> None:
    """Garbage is one kind of error, whatever it is."""
    with pytest.raises(ValueError, match=why):
        parse(body, "m")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"m{text}".encode()))
def test_no_answer_raises_anything_but_that_it_is_unusable(body: bytes) -> None:
    """A property of every byte string."""
    try:
        found = parse(body, "m")
    except ValueError:
        return
    assert all(value >= 0 for value in found.by_gpu.values())
