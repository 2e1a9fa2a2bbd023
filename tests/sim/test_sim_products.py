"""The products that can be simulated."""

from __future__ import annotations

import pytest

from gpuwarden.errors import InputError
from gpuwarden.sim.products import captured_readings, interpolate, parse_spec, products

PROMISED = {"rtx2080s", "rtx3090", "rtx4080s", "rtx4090", "a100", "h100", "h200", "b200", "l40s", "t4"}


def test_every_promised_product_is_there() -> None:
    """The nine products of the design, and one of NVLink 5; each has an idle and a loaded operating point."""
    assert products().keys() >= PROMISED
    for product in products().values():
        idle, busy = product.points["idle"], product.points[product.busy]
        assert idle.power_watts < busy.power_watts <= product.power_limit_watts.max, product.name
        assert idle.core_celsius < busy.core_celsius < product.thresholds_celsius.slowdown, product.name


def test_captured_products_say_what_the_capture_says() -> None:
    """A product with a capture has its numbers from there, and is not marked as derived."""
    product = products()["h100"]
    readings = captured_readings()[product.captured, product.driver]
    assert not product.derived
    assert product.memory_size_bytes == readings["memory_total_bytes"][0]
    assert product.points["load"].power_watts == readings["power_draw_watts"][1]


def test_products_without_a_capture_are_marked() -> None:
    """What comes from data sheets says so."""
    assert all(product.derived != bool(product.captured) for product in products().values())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("rtx4090x8", ("rtx4090", 8)), ("H100", ("h100", 1)), (" t4x16 ", ("t4", 16)), ("rtx2080sx2", ("rtx2080s", 2))],
)
def test_a_spec_is_product_and_count(spec: str, expected: tuple[str, int]) -> None:
    """`PRODUCTxCOUNT`, one GPU where no count is given."""
    assert parse_spec(spec) == expected


@pytest.mark.parametrize("spec", ["", "rtx9999x8", "h100x0", "h100x17", "h100x", "x8"])
def test_a_bad_spec_names_what_there_is(spec: str) -> None:
    """A mistake is answered with what can be said."""
    with pytest.raises(InputError, match=r"known are|between 1 and 16"):
        parse_spec(spec)


def test_interpolation_holds_its_ends() -> None:
    """Outside its points a curve goes on flat."""
    curve = ((10.0, 1.0), (20.0, 3.0))
    assert [interpolate(curve, at) for at in (0.0, 10.0, 15.0, 20.0, 99.0)] == [1.0, 1.0, 2.0, 3.0, 3.0]
