"""The guards that ask Prometheus: not more hosts out than may be, and nothing disruptive about a fault of the fleet."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.model.case import ActionKind, Fleet
from gpuwarden.model.settings import RemedySettings
from support.ward import Ward, enforcing

SOLO = replace(enforcing(), backend="command", fleet_max_hosts=2, fleet_query=True)
RATIO = replace(SOLO, fleet_max_hosts=None, fleet_max_ratio=0.1)


def ward(fleet: Fleet | None, remedy: RemedySettings = SOLO) -> Ward:
    """Return a host on which a fault is treated for a while, with this answer about the fleet."""
    found = Ward(remedy=remedy)
    found.fleet = fleet
    found.run(30)
    found.fault(0, 95, cured_by=ActionKind.RESET)
    found.run(600)
    assert found.errors == []
    return found


@pytest.mark.parametrize(
    ("fleet", "remedy", "held"),
    [
        pytest.param(Fleet(hosts=40, hosts_out=1), SOLO, False, id="room-for-one-more"),
        pytest.param(Fleet(hosts=40, hosts_out=2), SOLO, True, id="as-many-as-may-be"),
        pytest.param(None, SOLO, True, id="no-answer"),
        pytest.param(Fleet(hosts=40, hosts_out=3), RATIO, False, id="a-tenth-of-forty"),
        pytest.param(Fleet(hosts=39, hosts_out=3), RATIO, True, id="a-tenth-rounds-down"),
        pytest.param(Fleet(hosts=4, hosts_out=0), RATIO, False, id="one-may-always"),
        pytest.param(Fleet(hosts=4, hosts_out=1), RATIO, True, id="one-and-no-more"),
    ],
)
def test_a_host_is_taken_out_only_while_the_fleet_can_spare_it(
    fleet: Fleet | None, remedy: RemedySettings, held: bool
) -> None:
    """Held before anything is isolated; without a scheduler the query is all there is."""
    host = ward(fleet, remedy)
    assert (host.effects() == []) is held
    if held:
        assert "fleet_slot" in host.case.guards


@pytest.mark.parametrize(
    ("fleet", "held"),
    [
        pytest.param(Fleet(hosts=100, hosts_out=0, hosts_with={"xid.xid_95": 3}), True, id="three-of-a-hundred"),
        pytest.param(Fleet(hosts=100, hosts_out=0, hosts_with={"xid.xid_95": 2}), False, id="two"),
        pytest.param(Fleet(hosts=200, hosts_out=0, hosts_with={"xid.xid_95": 4}), False, id="no-more-than-the-ratio"),
        pytest.param(Fleet(hosts=100, hosts_out=0, hosts_with={"xid.xid_79": 50}), False, id="another-kind"),
    ],
)
def test_what_came_over_many_hosts_at_once_waits_for_a_person(fleet: Fleet, held: bool) -> None:
    """The same kind on three hosts or more, and on more than the ratio of all."""
    host = ward(fleet)
    assert ("reset" not in host.effects()) is held
    if held:
        assert "correlated" in host.case.guards
