"""One simulated GPU: its physics."""

from __future__ import annotations

import pytest

from gpuwarden.sim import card as physics
from gpuwarden.sim.card import STEP_SECONDS, Card, Identity, Knobs, Load
from gpuwarden.sim.products import products

AMBIENT = 25.0


def made(product: str = "rtx4090", *, point: str | None = None, steady: bool = True) -> Card:
    row = products()[product]
    identity = Identity(uuid="GPU-1", bdf="0000:01:00.0", serial="", minor=0, pci_slot="1")
    return Card(row, 0, identity, Load(point=row.busy if point is None else point, steady=steady), seed=1)


def run(card: Card, seconds: float, ambient: float = AMBIENT) -> Card:
    for _ in range(round(seconds / STEP_SECONDS)):
        card.step(ambient)
    return card


@pytest.mark.parametrize("product", sorted(products()))
def test_a_steady_card_stays_at_its_operating_point(product: str) -> None:
    """In the room its numbers were taken in, a healthy card reads what the product says."""
    card = run(made(product), 120.0)
    busy = card.product.points[card.product.busy]
    assert card.core_celsius == pytest.approx(busy.core_celsius, abs=1.5)
    assert card.power_watts == pytest.approx(busy.power_watts, rel=0.02)


def test_an_idle_card_is_idle() -> None:
    """No load: idle power, the idle reason, no heat reasons."""
    card = run(made(point="idle"), 10.0)
    assert card.power_watts == pytest.approx(card.product.points["idle"].power_watts, rel=0.02)
    assert card.reasons == physics.GPU_IDLE


def test_blocked_air_heats_the_card_until_it_slows_itself_down() -> None:
    """Heat follows power and air; at its limits the card lowers its clocks, says why, and lives."""
    card = made()
    card.knobs = Knobs(airflow=0.05)
    hottest = max(run(card, 1.0).core_celsius for _ in range(400))
    assert card.product.thresholds_celsius.slowdown <= hottest < card.product.thresholds_celsius.shutdown
    assert card.counters.reason_seconds[physics.SW_THERMAL] > 10.0
    assert card.counters.reason_seconds[physics.HW_THERMAL] > 1.0
    assert card.clock_ratio < 1.0
    assert card.power_watts < card.product.points[card.product.busy].power_watts / 2


def test_a_driven_core_goes_where_it_is_driven() -> None:
    """A heat fault says where the core ends, on every product, whatever the card does against it."""
    card = made("h100")
    card.knobs = Knobs(core_target_celsius=92.0, core_lag_seconds=5.0)
    run(card, 40.0)
    assert card.core_celsius == pytest.approx(92.0, abs=0.1)
    assert card.reasons & physics.HW_SLOWDOWN


def test_a_stopped_fan_is_asked_all_the_same() -> None:
    """The fan's reading is the request; a blocked fan shows in the temperature."""
    healthy, blocked = run(made(), 200.0), made()
    blocked.knobs = Knobs(fans_stopped=(0, 1))
    run(blocked, 200.0)
    assert blocked.core_celsius > healthy.core_celsius + 10.0
    assert min(blocked.fans) > max(healthy.fans)


def test_a_lower_power_limit_is_kept_and_named() -> None:
    """Clocks fall until the limit is kept, and the reason is the power cap."""
    card = made()
    card.power_limit_watts = 300.0
    run(card, 60.0)
    assert card.power_watts == pytest.approx(300.0, rel=0.02)
    assert card.reasons & physics.SW_POWER_CAP


def test_energy_is_power_over_time() -> None:
    """The energy counter is the integral of the power."""
    card = run(made(), 30.0)
    assert card.counters.energy_joules == pytest.approx(30.0 * card.power_watts, rel=0.02)


def test_a_reset_clears_what_a_reset_clears() -> None:
    """Counters since load fall to 0, a pending remap is done, lifetime counts stay."""
    card = made("h100")
    card.knobs = Knobs(remap_pending=True)
    card.uncorrected_errors(2)
    card.reset()
    assert card.counters.uncorrected["dram"] == 0
    assert card.lifetime.uncorrected["dram"] == 2
    assert card.remapped_uncorrected == 1


def test_the_same_seed_gives_the_same_card() -> None:
    """Noise is repeatable: a scenario runs the same way every time."""
    first, second = (run(made(steady=False), 20.0) for _ in range(2))
    assert (first.core_celsius, first.power_watts, first.gpu_utilization) == (
        second.core_celsius,
        second.power_watts,
        second.gpu_utilization,
    )
