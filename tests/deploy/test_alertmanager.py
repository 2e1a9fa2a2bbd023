"""The shipped Alertmanager configuration on the real Alertmanager: what is grouped, what is held back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.alertmanager import Alertmanager
from support.daemonproc import wait_for

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
pytestmark = pytest.mark.real


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    """A running one. Its webhook leads nowhere."""
    shutil.copy(CONFIGURATION, tmp_path)
    with Alertmanager(tmp_path) as running:
        wait_for(lambda: running.ask("status"), 20, "Alertmanager")
        yield running


def hot_card(host: str, **labels: str) -> dict[str, str]:
    """Return the page of one hot GPU."""
    page = {"alertname": "GpuCritical", "cluster": "c", "host": host, "gpu": "0", "kind": "thermal.core_over_limit"}
    return page | labels


def hot_room(host: str, **labels: str) -> dict[str, str]:
    """Return the page of a host in a hot room."""
    return {"alertname": "GpuRoomHot", "cluster": "c", "host": host, "kind": "thermal.room_hot", **labels}


def test_a_hot_room_holds_back_its_cards_and_no_others(alertmanager: Alertmanager) -> None:
    """Cards of that room only; a host without a room holds back its own only."""
    lost = hot_card("h1", room="r1") | {"gpu": "5", "kind": "presence.gpu_lost"}
    held = [hot_card("h1", room="r1"), hot_card("h2", room="r1"), hot_card("h7")]
    shown = [
        hot_room("h1", room="r1"),
        hot_room("h2", room="r1"),
        hot_room("h7"),
        hot_card("h3", room="r2"),
        hot_card("h8"),
        lost,
    ]
    alertmanager.post([{"labels": labels} for labels in held + shown])

    def verdicts() -> dict[tuple[tuple[str, str], ...], bool]:
        alerts = alertmanager.ask("alerts")
        states = {tuple(sorted(a["labels"].items())): a["status"]["state"] for a in alerts}
        ready = len(states) == len(held + shown) and "unprocessed" not in states.values()
        return {labels: state == "suppressed" for labels, state in states.items()} if ready else {}

    found = wait_for(verdicts, 30, "all alerts sorted")
    assert {labels for labels, is_held in found.items() if is_held} == {tuple(sorted(one.items())) for one in held}


def test_one_page_for_a_room_and_one_for_targets_that_went_together(alertmanager: Alertmanager) -> None:
    """Four hundred hosts in a hot room are one page, and so are four hundred that service discovery lost."""
    gone = [{"alertname": "GpuwardenTargetsGone", "cluster": "c", "host": f"h{number}"} for number in range(4)]
    hot = [hot_room(f"h{number}", room=f"r{number % 2}") for number in range(4)]
    alertmanager.post([{"labels": labels} for labels in gone + hot])

    def groups() -> list[tuple[dict[str, str], int]]:
        found = [(group["labels"], len(group["alerts"])) for group in alertmanager.ask("alerts/groups")]
        return found if sum(count for _, count in found) == len(gone + hot) else []

    assert sorted(wait_for(groups, 30, "all alerts grouped"), key=str) == [
        ({"alertname": "GpuRoomHot", "cluster": "c", "room": "r0"}, 2),
        ({"alertname": "GpuRoomHot", "cluster": "c", "room": "r1"}, 2),
        ({"alertname": "GpuwardenTargetsGone", "cluster": "c"}, 4),
    ]
