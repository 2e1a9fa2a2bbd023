"""The fabric and its manager, InfiniBand ports, persistence mode: each against what only looks like its fault."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Health, Unsure
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.host import FABRIC_MANAGER, PERSISTENCED, IbPort, ServiceUnit
from gpuwarden.model.observation import PortsSeen, ServicesSeen
from gpuwarden.model.severity import Severity
from support.story import Story, uuid

NOT_READY, MANAGER, PORT = "links.fabric_not_ready", "links.fabric_manager_down", "links.ib_port_down"
PERSISTENCE = "host.persistence_off"
READY = {"fabric_state": 3, "fabric_status": 0, "fabric_health_mask": 0}


def found(story: Story, kind: str) -> dict[str | None, Finding]:
    return {v.uuid: v for v in verdicts(story.node) if isinstance(v, Finding) and v.kind == kind}


def unsure(story: Story, kind: str) -> bool:
    return any(isinstance(v, Unsure) and v.kind == kind for v in verdicts(story.node))


def fabric(story: Story, number: int, **values: Any) -> None:
    story.sample(number, Lane.NORMAL, **(READY | values))


def services(story: Story, **states: str) -> None:
    """Tell the units: keyword = state of a unit that is installed and enabled."""
    names = {"manager": FABRIC_MANAGER, "persistenced": PERSISTENCED}
    units = tuple(
        ServiceUnit(name=name, load="loaded", active=states[short], enabled="enabled")
        if short in states
        else ServiceUnit(name=name, load="not-found", active="inactive")
        for short, name in names.items()
    )
    story.take(ServicesSeen(at=story.at, readable=True, units=units))


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        pytest.param({}, None, id="ready"),
        pytest.param({"fabric_state": 1}, Severity.CRITICAL, id="not-started"),
        pytest.param({"fabric_state": 2}, Severity.CRITICAL, id="in-progress"),
        pytest.param({"fabric_state": 9}, Severity.CRITICAL, id="a-state-nobody-knows"),
        pytest.param({"fabric_status": 999}, Severity.CRITICAL, id="completed-with-an-error"),
        pytest.param({"fabric_health_mask": 0b01}, Severity.WARNING, id="degraded-bandwidth"),
        pytest.param({"fabric_health_mask": 0b10}, None, id="bandwidth-not-degraded"),
        pytest.param({"fabric_health_mask": 0x5 << 8}, Severity.WARNING, id="insufficient-links"),
        pytest.param({"fabric_health_mask": 0x1 << 8}, None, id="configuration-correct"),
        pytest.param({"fabric_state": Missing.NOT_SUPPORTED}, None, id="no-fabric"),
    ],
)
def test_a_gpu_is_in_the_fabric_or_not(values: dict[str, Any], severity: Severity | None) -> None:
    """State 3 with status 0 and a clean mask is ready; each other thing has its grade."""
    story = Story().started(2)
    fabric(story, 0)
    fabric(story, 1, **values)
    told = found(story, NOT_READY).get(uuid(1))
    assert (told.severity if told else None) is severity
    assert uuid(0) not in found(story, NOT_READY)


def test_the_fabric_has_its_time_after_boot() -> None:
    """In the first five minutes it is neither broken nor healthy."""
    story = Story(at=100.0).started(1)
    fabric(story, 0, fabric_state=2)
    story.wait(1)
    assert (found(story, NOT_READY), found(story, MANAGER)) == ({}, {})
    assert story.gpu(0).health is Health.UNKNOWN
    story.running(300, 0)
    story.running(10, 0, lane=Lane.NORMAL, **(READY | {"fabric_state": 2}))
    assert uuid(0) in found(story, NOT_READY)


def test_a_fabric_that_is_not_ready_opens_and_clears() -> None:
    """After its hold; and it ends when the GPU has joined."""
    story = Story().started(1)
    for state, seconds, is_open in ((2, 70, True), (3, 40, False)):
        for _ in range(seconds):
            fabric(story, 0, fabric_state=state)
            story.running(1, 0)
        assert ((NOT_READY, uuid(0)) in story.open()) is is_open


def test_a_fabric_that_cannot_be_read_is_unsure() -> None:
    """Unknown is not joined and not out."""
    story = Story().started(1)
    fabric(story, 0, fabric_state=Missing.TIMED_OUT)
    assert unsure(story, NOT_READY)
    assert found(story, MANAGER) == {}


@pytest.mark.parametrize(
    ("states", "gpus", "is_down"),
    [
        pytest.param({"manager": "active"}, [3, 3], False, id="it-runs"),
        pytest.param({"manager": "failed"}, [3, 3], True, id="it-failed"),
        pytest.param({"manager": "activating"}, [3, 3], False, id="it-starts"),
        pytest.param({}, [3, 3], False, id="not-installed-and-not-needed"),
        pytest.param({}, [2, 2], True, id="nobody-has-joined"),
        pytest.param({"manager": "active"}, [2, 2], True, id="it-runs-and-nobody-has-joined"),
        pytest.param({"manager": "active"}, [2, 3], False, id="one-gpu-s-own-trouble"),
        pytest.param({"manager": "inactive"}, [], True, id="enabled-before-hopper"),
    ],
)
def test_the_fabric_manager_is_down_or_not(states: dict[str, str], gpus: list[int], is_down: bool) -> None:
    """The unit is there and does not run, or no GPU is in the fabric."""
    story = Story().started(2)
    for number, state in enumerate(gpus):
        fabric(story, number, fabric_state=state)
    services(story, **states)
    assert (None in found(story, MANAGER)) is is_down


def test_one_gpu_out_and_one_silent_says_nothing_of_the_manager() -> None:
    """The silent one may well be in the fabric."""
    story = Story().started(2)
    services(story, manager="active")
    fabric(story, 0, fabric_state=2)
    fabric(story, 1, fabric_state=Missing.TIMED_OUT)
    assert None not in found(story, MANAGER)


def test_a_manager_that_is_installed_disabled_and_not_needed_is_no_fault() -> None:
    """A package on a host without a fabric."""
    story = Story().started(1)
    unit = ServiceUnit(name=FABRIC_MANAGER, load="loaded", active="inactive", enabled="disabled")
    story.take(ServicesSeen(at=story.at, readable=True, units=(unit,)))
    assert found(story, MANAGER) == {}


def test_without_a_service_manager_the_fabric_manager_is_unsure_only_where_it_matters() -> None:
    """In a container: nothing is said of it on a host without a fabric, and no health of a GPU hangs on it."""
    story = Story().started(1)
    story.take(ServicesSeen(at=story.at, readable=False, detail="no systemctl here"))
    assert not unsure(story, MANAGER)
    fabric(story, 0)
    assert unsure(story, MANAGER)
    story.wait(1)
    assert story.gpu(0).health is Health.HEALTHY


def ports(story: Story, *states: str, phys: str = "Polling", rate: float = 400e9) -> None:
    """Tell one port per state; "" is a port that is not there."""
    told = tuple(
        IbPort(
            device=f"mlx5_{number}",
            port=1,
            state=state,
            phys_state="LinkUp" if state == "ACTIVE" else phys,
            rate_bits_per_second=rate,
        )
        for number, state in enumerate(states)
        if state
    )
    story.take(PortsSeen(at=story.at, readable=True, ports=told))


@pytest.mark.parametrize("later", ["DOWN", "INIT", "ARMED", ""], ids=["down", "init", "armed", "gone"])
def test_a_port_that_was_up_is_down(later: str) -> None:
    """Whatever it is instead of active; an adapter that is gone takes its port with it."""
    story = Story().started(1)
    ports(story, "ACTIVE", "ACTIVE")
    ports(story, "ACTIVE", later)
    told = found(story, PORT)[None]
    assert (told.evidence["ports"], told.evidence["trouble"], told.severity) == ("mlx5_1:1", "down", Severity.WARNING)
    story.wait(30)
    assert (PORT, "") in story.open()
    ports(story, "ACTIVE", "ACTIVE")
    story.wait(62)
    assert (PORT, "") not in story.open()


def test_a_port_that_never_was_up_is_not_cabled() -> None:
    """Down since we look, and not named by an incident."""
    story = Story().started(1)
    for _ in range(3):
        ports(story, "DOWN", "ACTIVE")
    assert found(story, PORT) == {}


def test_a_port_that_was_switched_off_is_info() -> None:
    """Somebody meant it."""
    story = Story().started(1)
    ports(story, "ACTIVE")
    ports(story, "DOWN", phys="Disabled")
    assert found(story, PORT)[None].severity is Severity.INFO


def test_a_port_that_keeps_dropping_is_told_while_it_is_up() -> None:
    """Three drops in ten minutes; they are forgotten afterwards."""
    story = Story().started(1)
    for times in range(3):
        ports(story, "ACTIVE")
        assert found(story, PORT) == {}, times
        ports(story, "DOWN")
    ports(story, "ACTIVE")
    assert found(story, PORT)[None].evidence["trouble"] == "flapping"
    story.wait(601)
    ports(story, "ACTIVE")
    assert found(story, PORT) == {}


def test_a_port_that_came_back_slower_is_told() -> None:
    """One lane of four."""
    story = Story().started(1)
    ports(story, "ACTIVE")
    ports(story, "ACTIVE", rate=100e9)
    evidence = found(story, PORT)[None].evidence
    assert (evidence["trouble"], evidence["best_rate_bits_per_second"]) == ("slow", 400e9)


def test_ports_that_cannot_be_looked_at_are_unsure_and_what_was_known_stays() -> None:
    """A hung scan clears nothing."""
    story = Story().started(1)
    ports(story, "ACTIVE")
    story.take(PortsSeen(at=story.at, readable=False))
    assert unsure(story, PORT)
    ports(story, "DOWN")
    assert None in found(story, PORT)


@pytest.mark.parametrize(
    ("values", "states", "expected_by"),
    [
        pytest.param({"persistence_mode": 1, "ecc_mode_default": 1}, {}, None, id="on"),
        pytest.param({"persistence_mode": 0, "ecc_mode_default": 1}, {}, "product", id="a-data-centre-board"),
        pytest.param({"persistence_mode": 0}, {}, None, id="geforce-by-default"),
        pytest.param({"persistence_mode": 0}, {"persistenced": "failed"}, "unit", id="its-daemon-failed"),
        pytest.param({"persistence_mode": 0}, {"persistenced": "active"}, None, id="its-daemon-runs-without-it"),
        pytest.param({"persistence_mode": Missing.NOT_SUPPORTED, "ecc_mode_default": 1}, {}, None, id="unsupported"),
    ],
)
def test_persistence_mode_is_missed_only_where_it_is_wanted(
    values: dict[str, Any], states: dict[str, str], expected_by: str | None
) -> None:
    """Off is the driver's default on GeForce; nobody is told about that."""
    story = Story().started(1)
    services(story, **states)
    story.sample(0, Lane.SLOW, **values)
    told = found(story, PERSISTENCE).get(uuid(0))
    assert (told is not None) is (expected_by is not None)
    assert told is None or told.evidence["expected_by"] == expected_by


def test_one_gpu_of_several_without_persistence_mode_is_told() -> None:
    """The others have it: this one lost it, and info it stays."""
    story = Story().started(2)
    story.sample(0, Lane.SLOW, persistence_mode=1)
    story.sample(1, Lane.SLOW, persistence_mode=0)
    assert list(found(story, PERSISTENCE)) == [uuid(1)]
    assert found(story, PERSISTENCE)[uuid(1)].severity is Severity.INFO
    story.sample(1, Lane.SLOW, persistence_mode=Missing.TIMED_OUT)
    assert unsure(story, PERSISTENCE)
