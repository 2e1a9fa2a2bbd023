"""The fleet, asked of a real Prometheus that scrapes hosts; and what is no answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web
from msgspec.structs import replace

from gpuwarden.collectors.fleet import FleetWatch, asked_of
from gpuwarden.engine import initial
from gpuwarden.model.case import Case, CaseState, Fleet, Treatment
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import AnyObservation, FleetAsked, Stamp
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import NodeState
from support.daemonproc import DaemonProcess, wait_for
from support.pages import Page, served
from support.prometheus import Prometheus

AT = Stamp("b00b5000-b", 100.0, 200.0)
NODE = initial(AT, Settings(kinds=default_settings()))
ALIVE = 'gpuwarden_build_info{version="1"} 1\n'
IN_SERVICE = ALIVE + 'gpuwarden_host_out_of_service{by="gpuwarden"} 0\ngpuwarden_host_out_of_service{by="other"} 0\n'
CLUSTER = {"cluster": "a", "room": "hall-1"}


def with_case(state: CaseState) -> NodeState:
    """Return a node with one open case."""
    case = Case(
        id="b00b5000-c1", kind="xid.xid_79", kinds=("xid.xid_79",), uuid="GPU-0", opened=AT, state=state, since=AT,
        treatment=Treatment(),
    )  # fmt: skip
    return replace(NODE, remedy=replace(NODE.remedy, cases={case.id: case}))


class Heard:
    """What a watch told."""

    def __init__(self) -> None:
        self.all: asyncio.Queue[Fleet | None] = asyncio.Queue()

    def __call__(self, observation: AnyObservation) -> None:
        assert isinstance(observation, FleetAsked)
        self.all.put_nowait(observation.fleet)


async def told(url: str, node: NodeState = NODE, labels: dict[str, str] = CLUSTER) -> Fleet | None:
    """Return what a watch tells first."""
    heard = Heard()
    task = asyncio.create_task(FleetWatch(url, labels, lambda: node, heard, lambda: AT).run())
    try:
        async with asyncio.timeout(30):
            return await heard.all.get()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def first_told(url: str, node: NodeState = NODE, labels: dict[str, str] = CLUSTER) -> Fleet | None:
    """Return what a watch tells first, for those who wait."""
    return asyncio.run(told(url, node, labels))


@contextmanager
def scraped(directory: Path, *groups: tuple[str, list[str]]) -> Iterator[Prometheus]:
    """Scrape hosts by cluster every second."""
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "gpuwarden",
                "static_configs": [{"targets": hosts, "labels": {"cluster": cluster}} for cluster, hosts in groups],
            }
        ],
    }
    (directory / "prometheus.yml").write_bytes(msgspec.json.encode(configuration))
    with Prometheus(directory) as prometheus:
        yield prometheus


@pytest.mark.real
def test_hosts_that_are_out_for_any_reason_count_once(tmp_path: Path) -> None:
    """Drained by either, at work, silent or speechless: out. Another cluster's hosts are not ours to count."""
    well, drained, admins, at_work, silent, speechless, elsewhere = pages = (
        Page(IN_SERVICE),
        Page(IN_SERVICE.replace('"gpuwarden"} 0', '"gpuwarden"} 1')),
        Page(IN_SERVICE.replace('"other"} 0', '"other"} 1')),
        Page(ALIVE + 'gpuwarden_cases{state="verifying"} 1\ngpuwarden_cases{state="soaking"} 1\n'),
        Page(None),
        Page("something_else 1\n"),
        Page(IN_SERVICE.replace('"other"} 0', '"other"} 1')),
    )
    with served(*pages), scraped(
        tmp_path, ("a", [page.address for page in pages[:-1]]), ("b", [elsewhere.address])
    ) as prometheus:  # fmt: skip
        url = prometheus.url

        def comes_to(fleet: Fleet, node: NodeState = NODE, labels: dict[str, str] = CLUSTER) -> None:
            wait_for(lambda: first_told(url, node, labels) == fleet, 20, f"{fleet}")

        comes_to(Fleet(hosts=6, hosts_out=5))
        comes_to(Fleet(hosts=7, hosts_out=6), labels={"room": "hall-1"})
        drained.text = None  # it reboots: it is out all the while
        silent.text = speechless.text = IN_SERVICE
        comes_to(Fleet(hosts=6, hosts_out=3))
        drained.text = admins.text = IN_SERVICE
        comes_to(Fleet(hosts=6, hosts_out=1))
        at_work.text = str(at_work.text) + 'gpuwarden_case_info{case="b00b5000-c1",state="verifying"} 1\n'
        comes_to(Fleet(hosts=6, hosts_out=0), node=with_case(CaseState.VERIFYING))
        assert first_told(url) == Fleet(hosts=6, hosts_out=1)
        well.text = IN_SERVICE.replace('"other"} 0', '"other"} 1')
        comes_to(Fleet(hosts=6, hosts_out=1), node=with_case(CaseState.VERIFYING))


@pytest.mark.real
def test_a_kind_that_began_on_three_of_four_hosts_is_seen_on_three(tmp_path: Path) -> None:
    """Simulated hosts under real daemons: two GPUs of one host count once, and a host that fell silent still counts."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(DaemonProcess(tmp_path / str(n), "--sim", "rtx4090x2")) for n in range(4)]
        addresses = [host.url.removeprefix("http://") for host in hosts]
        prometheus = stack.enter_context(scraped(tmp_path, ("a", addresses)))
        wait_for(lambda: first_told(prometheus.url) == Fleet(hosts=4, hosts_out=0), 30, "four hosts that are well")
        for host, gpu in ((hosts[0], 0), (hosts[0], 1), (hosts[1], 0), (hosts[2], 1)):
            host.inject("lost", gpu)

        def lost_on(out: int) -> bool:
            fleet = first_told(prometheus.url)
            return fleet is not None and (fleet.hosts_with.get("presence.gpu_lost"), fleet.hosts_out) == (3, out)

        wait_for(lambda: lost_on(0), 30, "a kind on three hosts")
        hosts[2].stop()
        wait_for(lambda: lost_on(1), 30, "a kind on three hosts, one of them silent since")


@pytest.mark.real
def test_an_incident_of_long_ago_did_not_just_begin(tmp_path: Path) -> None:
    """Fifteen minutes by the host's clock; resolved since then or not makes no difference."""
    now = time.time()
    begun = 'gpuwarden_incident_start_timestamp_seconds{{kind="xid.xid_79",gpu="{}"}} {}\n'
    long_ago, lately = Page(ALIVE + begun.format(0, now - 1000)), Page(ALIVE + begun.format(0, now - 5))
    with served(long_ago, lately), scraped(tmp_path, ("a", [long_ago.address, lately.address])) as prometheus:
        expected = Fleet(hosts=2, hosts_out=0, hosts_with={"xid.xid_79": 1})
        wait_for(lambda: first_told(prometheus.url) == expected, 20, "one host")
        lately.text = ALIVE
        wait_for(
            lambda: not prometheus.query("gpuwarden_incident_start_timestamp_seconds > time() - 900"), 20, "its end"
        )
        assert first_told(prometheus.url) == expected


@pytest.mark.real
def test_a_prometheus_without_hosts_and_one_that_is_away_are_no_answer(tmp_path: Path) -> None:
    """No fleet of none: nothing may be done on the strength of it."""
    page = Page(IN_SERVICE)
    with served(page), scraped(tmp_path, ("a", [page.address])) as prometheus:
        wait_for(lambda: first_told(prometheus.url) is not None, 20, "an answer")
        assert first_told(prometheus.url, labels={"cluster": "nowhere"}) is None
    assert first_told(prometheus.url) is None


def answer(*values: str, **extra: Any) -> dict[str, Any]:
    """Return an answer of the API with one series for each value."""
    series = [{"metric": {"kind": f"k{n}"}, "value": [1.0, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": series}, **extra}


Answer = Callable[[str], Any]


@asynccontextmanager
async def answered(by: Answer) -> AsyncIterator[str]:
    """Serve a Prometheus that answers each query with a JSON document, or bytes."""

    async def handler(request: web.Request) -> web.Response:
        made = by(request.query["query"])
        return web.Response(body=made) if isinstance(made, bytes) else web.json_response(made)

    app = web.Application()
    app.router.add_get("/prefix/api/v1/query", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/prefix/"
    finally:
        await runner.cleanup()


async def test_a_whole_sound_answer_is_the_fleet() -> None:
    """Hosts, hosts out, hosts by kind: three questions below the path that the address has."""

    def by(query: str) -> Any:
        return answer("7", "3") if "kind" in query else answer("40" if query.startswith("count(group by") else "2")

    async with answered(lambda query: answer("2") if "unless" in query else by(query)) as url:
        assert await told(url) == Fleet(hosts=40, hosts_out=2, hosts_with={"k0": 7, "k1": 3})


@pytest.mark.parametrize(
    "amiss",
    [
        pytest.param(answer(), id="empty"),
        pytest.param(answer("1", "2"), id="two-numbers"),
        pytest.param(answer("NaN"), id="no-number"),
        pytest.param(answer("+Inf"), id="infinite"),
        pytest.param(answer("-1"), id="negative"),
        pytest.param(answer("1.5"), id="half-a-host"),
        pytest.param(answer("many"), id="a-word"),
        pytest.param(answer("4", warnings=["a store is away"]), id="partial"),
        pytest.param({"status": "error", "errorType": "timeout", "error": "x"}, id="refused"),
        pytest.param({"status": "success", "data": {"resultType": "matrix", "result": []}}, id="a-range"),
        pytest.param(b"<html>", id="no-json"),
        pytest.param(b"[" * 100_000, id="too-deep"),
    ],
)
@pytest.mark.parametrize("which", ["up{", "last_over_time(gpuwarden_host_out", "kind, instance"])
async def test_one_answer_amiss_is_no_answer(amiss: Any, which: str) -> None:
    """Whichever of the three it is; only kinds may be none, or several."""
    if which.startswith("kind") and amiss in (answer(), answer("1", "2")):
        return
    async with answered(lambda query: amiss if which in query else answer("4")) as url:
        assert await told(url) is None


async def test_what_is_amiss_is_said_once_and_without_the_password() -> None:
    """One line when it goes, one when it is back."""
    asked = 0

    def by(_: str) -> Any:
        nonlocal asked
        asked += 1
        return b"?" if asked < 3 else answer("4")

    waits = with_case(CaseState.WAITING)
    async with answered(by) as url:
        heard = Heard()
        address = url.replace("http://", "http://reader:s3cret@")
        watch = FleetWatch(address, {}, lambda: waits, heard, lambda: AT, periods=(60.0, 0.1), look_seconds=0.05)
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(watch.run())
            async with asyncio.timeout(20):
                seen = [await heard.all.get() for _ in range(3)]
            task.cancel()
    assert [fleet is not None for fleet in seen] == [False, False, True]
    assert [entry["event"] for entry in logs] == ["fleet.not_answered", "fleet.answered"]
    assert "s3cret" not in str(logs)


async def test_it_is_asked_sooner_while_a_case_waits() -> None:
    """A long pause ends when a case begins to wait."""
    now = NODE
    async with answered(lambda _: answer("4")) as url:
        heard = Heard()
        watch = FleetWatch(url, {}, lambda: now, heard, lambda: AT, periods=(3600.0, 0.2), look_seconds=0.05)
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(20):
            await heard.all.get()
            now = with_case(CaseState.WAITING)
            await heard.all.get()
        task.cancel()


def test_odd_labels_and_case_ids_stay_inside_their_quotes() -> None:
    """What an operator writes as a label is no part of the question."""
    found = asked_of('up{x="1"POOL} OURS', {"cluster": 'a"}\\OURS\n', "room": "r"}, ("b-c1", 'c2"|.*'))
    assert found == 'up{x="1", cluster="a\\"}\\\\OURS\\n"} b-c1|c2'
