"""The server over real sockets: what it answers, and what clients cannot do to it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gpuwarden.errors import ConfigError, InputError
from gpuwarden.exposition.gate import Limits
from gpuwarden.exposition.routes import Readiness
from gpuwarden.model.finding import Event
from support.nodes import NOW, incident, with_incidents
from support.webserver import Answer, Running, Serve, Source, exchange, request

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
QUICK = Limits(connections=32, header_seconds=0.3, write_seconds=0.3)


async def until(seen: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not seen():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# ---- what is answered


async def test_a_scrape_without_wishes_gets_text(running: Running) -> None:
    """No Accept header: the text format, uncompressed, which parses."""
    answer = await running.get()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "content-encoding" not in answer.headers
    names = {family.name for family in parse_text(answer.body.decode())}
    assert {"gpuwarden_gpu_temperature_celsius", "gpuwarden_finding_active"} & names


async def test_prometheus_gets_openmetrics_and_gzip(running: Running) -> None:
    """What Prometheus asks for is what it gets."""
    answer = await running.get(Accept=PROMETHEUS_2, Accept_Encoding="gzip")
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip"
    text = gzip.decompress(answer.body).decode()
    assert text.endswith("# EOF\n")
    assert "gpuwarden_gpu_energy_joules" in {family.name for family in parse_openmetrics(text)}


async def test_gzip_refused_is_not_sent(running: Running) -> None:
    """A client that puts gzip at quality 0 does not get it."""
    answer = await running.get(Accept_Encoding="gzip;q=0, identity")
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/events"])
async def test_head_is_get_without_the_body(running: Running, path: str) -> None:
    """HEAD answers the headers of GET and nothing else."""
    got, head = await running.get(path), await running.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused(running: Running, method: str) -> None:
    """The TCP side is read-only."""
    answer = await running.get("/metrics", method=method)
    assert answer.status in (400, 405)
    assert running.source.state is running.source.node()


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/",
        "//metrics",
        "/../etc/passwd",
        "/%2e%2e/x",
        "/static/",
        "/static/../page.css",
        "/api",
        "/api/v1/hold",
        "/favicon.ico",
        "/metrics%00",
    ],
)
async def test_odd_paths_are_not_found(running: Running, path: str) -> None:
    """Only the documented paths exist."""
    assert (await running.get(path)).status == 404


async def test_a_body_is_refused(running: Running) -> None:
    """A GET brings no body; what comes is not read."""
    answer = await running.get("/metrics", body=b"x" * 100)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


async def test_healthz_follows_the_main_loop(running: Running, source: Source) -> None:
    """200 while the loop takes observations, whatever the driver does; 503 with the reason once it does not."""
    assert (await running.get("/healthz")).status == 200
    source.why_stalled = "no observation taken for 31 s"
    answer = await running.get("/healthz")
    assert (answer.status, answer.body) == (503, b"no observation taken for 31 s\n")


async def test_readyz_waits_for_the_start_to_end(running: Running, source: Source) -> None:
    """Restored, looked back, and a first verdict on NVML; until then it says what it waits for."""
    source.ready = Readiness(restored=True)
    answer = await running.get("/readyz")
    assert (answer.status, answer.body) == (503, b"starting: waits for kernel log, nvml\n")
    source.ready = Readiness(restored=True, looked_back=True, nvml_judged=True)
    assert (await running.get("/readyz")).status == 200


async def test_no_scrape_before_counters_are_restored(running: Running, source: Source) -> None:
    """A counter that would jump later is not shown now; NVML need not have answered."""
    source.ready = Readiness(restored=True)
    assert (await running.get("/metrics")).status == 503
    source.ready = Readiness(restored=True, looked_back=True)
    assert (await running.get("/metrics")).status == 200


async def test_status_has_every_gpu_with_readings_and_findings(running: Running, source: Source) -> None:
    """The contract of /api/v1/status."""
    uuid = next(iter(source.state.gpus))
    source.state = with_incidents(source.state, incident("thermal.core_over_limit", uuid), incident("host.hung_task"))
    answer = await running.get("/api/v1/status")
    assert answer.headers["content-type"] == "application/json"
    status = json.loads(answer.body)
    assert status["host"]["name"] == "rig7"
    assert (status["mode"], status["health"], status["cases"]) == ("shadow", "healthy", [])
    assert [gpu["gpu"] for gpu in status["gpus"]] == list(range(8))
    first = status["gpus"][0]
    assert (first["uuid"], first["name"], first["health"]) == (uuid, "NVIDIA H100 80GB HBM3", "healthy")
    assert first["readings"]["core_celsius"] == {"value": 41.0, "unit": "celsius", "status": "ok"}
    assert first["readings"]["fan_speed_ratio"] == {"value": None, "unit": "ratio", "status": "not_supported"}
    assert [each["kind"] for each in first["findings"]] == ["thermal.core_over_limit"]
    assert [each["kind"] for each in status["findings"]] == ["host.hung_task"]


async def test_events_pass_their_filter_on(running: Running, source: Source) -> None:
    """Kind, time and limit reach the source; the answer is a list of objects with the contract's keys."""
    source.kept = [
        Event(
            kind="incident",
            name="xid.xid_79",
            severity="critical",
            gpu=3,
            uuid="GPU-3",
            state="opened",
            time=NOW.wall,
            evidence={"xid": 79},
        )
    ]
    answer = await running.get("/api/v1/events?kind=incident&since=1790000000&limit=5")
    assert source.asked == [("incident", 1790000000.0, 5)]
    (event,) = json.loads(answer.body)
    assert {"kind", "name", "severity", "gpu", "uuid", "state", "time", "evidence"} <= event.keys()


@pytest.mark.parametrize(
    "query",
    ["kind=nonsense", "limit=0", "limit=1e9", "limit=many", "since=nan", "since=-1", "since=inf", "what=1"],
)
async def test_bad_queries_are_explained(running: Running, source: Source, query: str) -> None:
    """A parameter that is not what it should be is a 400 with the rule, and reaches nobody."""
    answer = await running.get(f"/api/v1/events?{query}")
    assert answer.status == 400
    assert answer.body.strip()
    assert source.asked == []


async def test_slow_event_readers_are_bounded(running: Running, source: Source) -> None:
    """A journal on a hung disk holds up a few readers for seconds, not all of them for ever, and no scrape."""
    source.slow_events.clear()
    waiting = [asyncio.create_task(running.get("/api/v1/events")) for _ in range(8)]
    await until(lambda: len(source.asked) == 4)
    assert (await running.get("/metrics")).status == 200
    answers = await asyncio.gather(*waiting)
    assert [answer.status for answer in answers] == [503] * 8


async def test_history_gives_points(running: Running, source: Source) -> None:
    """One reading of one GPU by index or uuid; absent samples are null."""
    uuid = list(source.state.gpus)[2]
    source.ring.record(uuid, NOW.wall - 2, {"core_celsius": 40.0})
    source.ring.record(uuid, NOW.wall - 1, {"power_watts": 1.0})
    for who in ("2", uuid):
        found = json.loads((await running.get(f"/api/v1/history?gpu={who}&reading=core_celsius&seconds=60")).body)
        assert found["points"] == [[NOW.wall - 2, 40.0], [NOW.wall - 1, None]]
        assert (found["gpu"], found["unit"]) == (2, "celsius")
    assert (await running.get("/api/v1/history?gpu=99&reading=core_celsius")).status == 404
    assert (await running.get("/api/v1/history?gpu=2&reading=__class__")).status == 400


async def test_the_page_names_what_is_wrong_and_escapes_it(running: Running, source: Source) -> None:
    """Server-side HTML: findings, readings, and nothing from elsewhere; a card's name cannot carry markup."""
    gpus = dict(source.state.gpus)
    uuid, first = next(iter(gpus.items()))
    gpus[uuid] = replace(first, identity=replace(first.identity, name="<script>alert(1)</script>"))
    source.state = with_incidents(replace(source.state, gpus=gpus), incident("presence.gpu_lost", uuid))
    answer = await running.get("/")
    text = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "presence.gpu_lost" in text
    assert "41 °C" in text
    assert f"GPU {first.index} · slot {first.identity.slot} · serial {first.identity.serial}" in text
    assert "<script>alert" not in text
    assert "http://" not in text
    assert "https://" not in text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "onclick" not in text
    assert "style=" not in text


@pytest.mark.parametrize(("name", "kind"), [("page.css", "text/css"), ("page.js", "text/javascript")])
async def test_the_pages_files_are_served(running: Running, name: str, kind: str) -> None:
    """Style and script come from us, under their types."""
    answer = await running.get(f"/static/{name}")
    assert (answer.status, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert f"/static/{name}" in (await running.get("/")).body.decode()


async def test_answers_tell_no_versions(running: Running) -> None:
    """Which library serves is nobody's business; sniffing and framing are off."""
    for path in ("/metrics", "/nothing"):
        answer = await running.get(path)
        assert answer.headers["server"] == "gpuwarden"
        assert answer.headers["x-content-type-options"] == "nosniff"


# ---- what clients cannot do


async def test_slow_headers_are_cut_off(serve: Serve) -> None:
    """A client that trickles its header is dropped at the deadline, however busy it keeps."""
    running = await serve(limits=QUICK)
    reader, writer = await asyncio.open_connection(*running.address.split(":"))
    begun = time.monotonic()
    writer.write(b"GET /metrics HTTP/1.1\r\n")

    async def trickle() -> None:
        while True:
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(3):
        with pytest.raises(ConnectionError):
            assert await reader.read() == b""
            raise ConnectionError  # an orderly end is as good as a reset
    trickling.cancel()
    writer.close()
    assert 0.2 < time.monotonic() - begun < 2
    assert (await running.get()).status == 200


async def test_a_silent_connection_is_cut_off(serve: Serve) -> None:
    """A client that sends nothing at all is dropped at the same deadline."""
    running = await serve(limits=QUICK)
    reader, writer = await asyncio.open_connection(*running.address.split(":"))
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def test_a_crowd_keeps_no_scraper_out(running: Running) -> None:
    """300 connections that only connect, against a limit of 256: a scrape is answered all the same."""
    crowd = [await asyncio.open_connection(*running.address.split(":")) for _ in range(300)]
    for _ in range(5):
        assert (await running.get()).status == 200
    for _, writer in crowd:
        writer.close()


async def test_more_requests_than_connections_are_told_so(serve: Serve, source: Source) -> None:
    """When every connection is being served the next one gets a 503, and the served ones are not disturbed."""
    running = await serve(limits=Limits(connections=4))
    source.slow_events.clear()
    served = [asyncio.create_task(running.get("/api/v1/events")) for _ in range(4)]
    await until(lambda: len(source.asked) == 4)
    refused = await running.get("/metrics")
    assert refused.status == 503
    source.slow_events.set()
    assert [answer.status for answer in await asyncio.gather(*served)] == [200] * 4
    assert (await running.get("/metrics")).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 60_000, id="one-huge-field"),
        pytest.param(b"GET /metrics HTTP/1.1\r\n" + b"X: aaaaaaaa\r\n" * 6000, id="many-fields"),
        pytest.param(b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", id="long-path"),
        pytest.param(b"\x16\x03\x01\x02\x00" + bytes(300), id="tls-on-a-plain-port"),
        pytest.param(b"\r\n\r\n\r\n\r\n" * 10, id="blank-lines"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another-protocol"),
    ],
)
async def test_huge_or_foreign_headers_are_refused(running: Running, raw: bytes) -> None:
    """A request that no scraper sends gets at most a short error; the next one is served."""
    reader, writer = await asyncio.open_connection(*running.address.split(":"))
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(5):
        try:
            answer = Answer(await reader.read())
        except ConnectionError:
            answer = Answer(b"")
    writer.close()
    assert answer.status in (0, 400, 414, 431)
    assert len(answer.body) < 1000
    assert (await running.get()).status == 200


async def test_a_slow_reader_is_cut_off(serve: Serve) -> None:
    """A client that asks and does not read is dropped at the deadline; its answers pile up nowhere."""
    running = await serve(limits=QUICK)
    host, port = running.address.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        again = request().replace(b"Connection: close\r\n", b"")
        begun = time.monotonic()

        async def ask_on() -> None:
            while True:
                await loop.sock_sendall(client, again)
                await asyncio.sleep(0.005)

        with pytest.raises((ConnectionError, TimeoutError)):
            async with asyncio.timeout(5):
                await ask_on()
        assert time.monotonic() - begun < 4
    assert (await running.get()).status == 200


async def test_a_pipelined_flood_is_bounded(serve: Serve) -> None:
    """Requests sent without end behind one that is being served do not pile up in memory."""
    running = await serve(limits=QUICK)
    running.source.slow_events.clear()
    reader, writer = await asyncio.open_connection(*running.address.split(":"))
    writer.write(request("/api/v1/events").replace(b"Connection: close\r\n", b""))
    await until(lambda: len(running.source.asked) == 1)
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError):
            while True:
                writer.write(request() * 100)
                await writer.drain()
                await asyncio.sleep(0.005)
    del reader


async def test_keep_alive_serves_many_requests(running: Running) -> None:
    """One connection serves one request after the other."""
    reader, writer = await asyncio.open_connection(*running.address.split(":"))
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(3) == b"ok\n"
    writer.close()


# ---- where it listens


async def test_several_addresses_report_their_ports(serve: Serve) -> None:
    """Every listen address is served, port 0 is reported as what was bound, IPv6 in brackets."""
    listen = ("127.0.0.1:0", "[::1]:0", ":0") if socket.has_dualstack_ipv6() else ("127.0.0.1:0", "localhost:0", ":0")
    running = await serve(listen=listen)
    assert len(running.server.urls) == 3
    for url in running.server.urls:
        address = url.removeprefix("http://")
        assert not address.endswith(":0")
        assert (await exchange(address, request("/healthz"))).status == 200
    every = running.server.urls[2].rpartition(":")[2]
    assert (await exchange(f"127.0.0.1:{every}", request("/healthz"))).status == 200


async def test_an_address_in_use_is_said(serve: Serve) -> None:
    """The second on a port is told which, and leaves nothing behind."""
    running = await serve()
    with pytest.raises(InputError, match=rf"cannot listen on {running.address}: Address already in use"):
        await serve(listen=(running.address,))


@pytest.mark.parametrize("text", ["9878", "::1:9878", "host:", "host:http", ":99999", "[::1]9878", "", "host:-1"])
async def test_a_bad_address_is_a_config_error(serve: Serve, text: str) -> None:
    """What is no address is reported under its key."""
    with pytest.raises(ConfigError, match=r"web\.listen"):
        await serve(listen=(text,))


async def test_the_status_socket_answers_the_same(serve: Serve) -> None:
    """The CLI's way in: same paths, mode 0660, gone after the end."""
    running = await serve()
    answer = await exchange(running.socket, request("/api/v1/status"))
    assert json.loads(answer.body)["mode"] == "shadow"
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o660
    await running.server.stop()
    assert not running.socket.exists()


async def test_verbs_exist_on_the_status_socket_only(serve: Serve) -> None:
    """POST reaches a verb over the socket, never over TCP; what it raises on purpose is told."""
    asked = []

    async def inject(body: dict[str, object]) -> object:
        asked.append(body)
        if body.get("fault") == "nonsense":
            raise InputError("no such fault: nonsense")
        return {"ok": True}

    running = await serve(verbs={"inject": inject})
    post = request("/api/v1/inject", "POST", b'{"fault": "hung"}')
    assert json.loads((await exchange(running.socket, post)).body) == {"ok": True}
    assert (await exchange(running.address, post)).status in (404, 405, 413)
    assert asked == [{"fault": "hung"}]
    refused = await exchange(running.socket, request("/api/v1/inject", "POST", b'{"fault": "nonsense"}'))
    assert (refused.status, json.loads(refused.body)) == (400, {"error": "no such fault: nonsense"})
    for broken in (b"{", b"[]", b"\xff"):
        assert (await exchange(running.socket, request("/api/v1/inject", "POST", broken))).status == 400
    large = request("/api/v1/inject", "POST", b" " * 200_000)
    with pytest.raises((ConnectionError, AssertionError)):
        assert (await exchange(running.socket, large)).status in (413, 431) and False


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(serve: Serve, tmp_path: Path) -> None:
    """After a crash the socket file is in the way of nobody; beside a running daemon nobody takes its place."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "status.sock"))
    running = await serve()
    with pytest.raises(InputError, match="another gpuwarden answers"):
        await serve()
    assert (await exchange(running.socket, request("/healthz"))).status == 200


async def test_a_file_in_the_sockets_place_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    """What is no socket is not ours to remove."""
    (tmp_path / "status.sock").write_text("precious")
    with pytest.raises(InputError, match="it is no socket"):
        await serve()
    assert (tmp_path / "status.sock").read_text() == "precious"


async def test_stop_is_bounded(serve: Serve, source: Source) -> None:
    """Connections, idle or being served, do not hold up the end."""
    running = await serve()
    source.slow_events.clear()
    idle = await asyncio.open_connection(*running.address.split(":"))
    served = asyncio.create_task(running.get("/api/v1/events"))
    await until(lambda: len(source.asked) == 1)
    begun = time.monotonic()
    await running.server.stop(0.5)
    assert time.monotonic() - begun < 2
    idle[1].close()
    served.cancel()
