"""The throughput endpoint over real HTTP: answers, silence, garbage, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from aiohttp import web

from gpuwarden.collectors.throughput import ThroughputPoller
from gpuwarden.config import Poll, Workload
from gpuwarden.model.observation import AnyObservation, Figure, Stamp, ThroughputSeen

POLL = Poll(fast_seconds=0.1, normal_seconds=0.1, deadline_seconds=0.5)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Heard:
    """What the poller emitted, with a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[ThroughputSeen] = []
        self._news = asyncio.Event()

    def __call__(self, observation: AnyObservation) -> None:
        assert isinstance(observation, ThroughputSeen)
        self.all.append(observation)
        self._news.set()

    async def until(self, count: int) -> list[ThroughputSeen]:
        async with asyncio.timeout(10):
            while len(self.all) < count:
                self._news.clear()
                await self._news.wait()
        return self.all


@asynccontextmanager
async def polled(handler: Handler, metric: str = "fps", host: str = "127.0.0.1") -> AsyncIterator[Heard]:
    """Poll a server that answers with `handler`."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    heard = Heard()
    workload = Workload(throughput_url=f"http://{host}:{port}/", throughput_metric=metric)
    poller = ThroughputPoller(workload, POLL, heard, lambda: Stamp("boot", 1.0, 2.0))
    task = asyncio.create_task(poller.run())
    try:
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await runner.cleanup()


async def test_an_answer_becomes_figures_by_gpu_also_by_host_name() -> None:
    """The content decides what format it is; the name is looked up beside the loop's executor."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"fps": [30.0, 31.0]})

    async with polled(handler, host="localhost") as heard:
        first = (await heard.until(1))[0]
    assert first.up
    assert first.figures == (
        Figure(gpu="0", metric="fps", value=30.0),
        Figure(gpu="1", metric="fps", value=31.0),
    )


async def test_a_counter_is_told_as_a_rate_and_starts_anew_when_it_falls() -> None:
    """The first answer has no rate yet; nor has one at which the counter fell."""
    totals = iter([1000, 2000, 3000, 5, 1005])

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=f'hashes_total{{gpu="0"}} {next(totals, 9999)}\n')

    async with polled(handler, "hashes_total") as heard:
        seen = (await heard.until(5))[:5]
    assert [len(each.figures) for each in seen] == [0, 1, 1, 0, 1]
    assert all(each.up for each in seen)
    assert 1000 < seen[1].figures[0].value <= 1000 / POLL.normal_seconds * 1.5


async def test_what_cannot_be_used_is_away_and_said_once() -> None:
    """A status, a redirect, garbage, silence, a flood: none of them is a figure of zero; each change is one line."""
    answers: list[Handler] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        return await answers[0](request)

    async def refused(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://127.0.0.1:9/")

    async def garbage(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x00\xff")

    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * (1 << 20))

    async def good(_: web.Request) -> web.StreamResponse:
        return web.Response(text='fps{gpu="0"} 1\n')

    answers[:] = [refused]
    with structlog.testing.capture_logs() as logs:
        async with polled(handler) as heard:
            await heard.until(3)
            for kind, words in (
                (elsewhere, "302"),
                (garbage, "not text"),
                (silent, "no answer within"),
                (flood, "longer than"),
                (good, ""),
            ):
                answers[:] = [kind]
                before = len(heard.all)
                await heard.until(before + 3)
                last = heard.all[-1]
                assert last.up is (kind is good)
                assert words in last.detail
    assert [entry["event"] for entry in logs] == ["throughput.unusable"] * 5 + ["throughput.answering"]


async def test_nobody_listens() -> None:
    """A port without a server, and a name nobody knows, are away and end no task."""
    heard = Heard()
    for url in ("http://127.0.0.1:9/", "http://no-such-host.invalid/"):
        before = len(heard.all)
        workload = Workload(throughput_url=url, throughput_metric="fps")
        task = asyncio.create_task(ThroughputPoller(workload, POLL, heard, lambda: Stamp("b", 1.0, 2.0)).run())
        await heard.until(before + 2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert not heard.all[-1].up
        assert heard.all[-1].detail
