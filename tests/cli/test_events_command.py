"""`gpuwarden events`: from the daemon, followed, and from the journal while it is down."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from gpuwarden.engine import initial
from gpuwarden.journal import Journal
from gpuwarden.model.finding import Event
from gpuwarden.model.observation import Stamp
from gpuwarden.model.settings import Settings
from support.rig import Rig


def event(seconds: float, state: str = "opened", **fields: Any) -> Event:
    """Return an event at a Unix time."""
    base: dict[str, Any] = {
        "kind": "incident", "name": "xid.xid_79", "severity": "critical", "gpu": 3, "uuid": "GPU-3", "state": state,
        "time": seconds, "boot_id": "b", "evidence": {"incident": "b-1", "count": 2},
    }  # fmt: skip
    return Event(**(base | fields))


def test_an_event_is_one_line(live: Rig) -> None:
    """When, how bad, what, where, and the evidence."""
    live.source.kept = [event(1_790_000_000.0), event(1_790_000_060.0, "cleared", gpu=None, drill=True)]
    first, second = live.run("events").stdout.splitlines()
    assert first.split("  ")[1].strip() == "critical"
    assert first.endswith("gpu3   xid.xid_79  incident=b-1 count=2")
    assert " host   xid.xid_79 DRILL " in second


def test_kind_since_and_limit_reach_the_daemon(live: Rig) -> None:
    """The daemon chooses, not the command."""
    live.run("events", "--kind", "incident", "--since", "@1790000000", "--limit", "5")
    assert live.source.asked == [("incident", 1_790_000_000.0, 5)]


def test_json_is_one_event_a_line(live: Rig) -> None:
    """What `jq` reads from a stream."""
    live.source.kept = [event(1.0), event(2.0)]
    lines = live.run("events", "--format", "json").stdout.splitlines()
    assert [json.loads(line)["time"] for line in lines] == [1.0, 2.0]


def test_what_the_daemon_cannot_be_asked_is_refused(live: Rig) -> None:
    """Unknown kinds and times are usage errors."""
    assert live.run("events", "--kind", "fire").exit_code == 2
    assert live.run("events", "--since", "whenever").exit_code == 2


async def _written(rig: Rig, *events: Event) -> None:
    journal, _ = Journal.open(rig.state_dir, "b")
    state = initial(Stamp("b", 1.0, 1.0), Settings(kinds={}))
    journal.commit(events, state, state, None)
    await journal.close(5.0)


def test_while_the_daemon_is_down_its_journal_answers(rig: Rig) -> None:
    """The same events, the same choice."""
    asyncio.run(_written(rig, event(10.0), event(20.0), event(30.0, kind="request")))
    found = rig.run("events", "--since", "@15", "--format", "json", "--config", str(rig.config))
    assert found.exit_code == 0, found.output
    assert [json.loads(line)["time"] for line in found.stdout.splitlines()] == [20.0, 30.0]
    assert len(rig.run("events", "--kind", "request").stdout.splitlines()) == 1


def test_neither_daemon_nor_journal_is_said(rig: Rig) -> None:
    """Exit 3, and both reasons."""
    result = rig.run("events")
    assert result.exit_code == 3
    assert "no such socket" in result.stderr
    assert "there is no journal" in result.stderr


def test_following_shows_each_event_once(live: Rig) -> None:
    """Events of the moment that was shown last are not shown again, new ones of that moment are."""
    now = time.time()
    live.source.kept = [event(now)]
    with subprocess.Popen(
        [sys.executable, "-m", "gpuwarden.cli", "events", "--follow", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GPUWARDEN_CONFIG": str(live.config)},
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "opened"
        live.source.kept = [event(now), event(now, "changed")]
        assert json.loads(process.stdout.readline())["state"] == "changed"
        live.source.kept = [event(now), event(now, "changed"), event(now + 1, "cleared")]
        assert json.loads(process.stdout.readline())["state"] == "cleared"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (0, b"", b"")


def test_an_incident_is_explained_by_its_events(live: Rig) -> None:
    """`explain case ID`: everything that happened under it, in order; exit 2 for what nobody knows."""
    live.source.kept = [event(1.0), event(2.0, evidence={"incident": "b-2"}), event(3.0, "cleared")]
    assert [each["state"] for each in live.json("explain", "case", "b-1")] == ["opened", "cleared"]
    assert len(live.run("explain", "case", "b-2").stdout.splitlines()) == 1
    assert live.run("explain", "case", "b-9").exit_code == 2
