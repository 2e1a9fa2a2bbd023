"""The stop query: above 0 stops, and so does everything that is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from gpuwarden.collectors.stopquery import StopQuery
from support.daemonproc import wait_for
from support.pages import Page, served
from support.prometheus import Prometheus


async def seen(what: Callable[[], bool]) -> None:
    """Wait until something is so, beside the loop."""
    await asyncio.to_thread(wait_for, what, 20, "a change of the stop query")


async def after_one_answer(query: StopQuery) -> tuple[bool | None, str]:
    """Return what is known after the query was answered or not for the first time."""
    before = query.read()
    task = asyncio.create_task(query.run())
    try:
        await seen(lambda: query.read() != before)
        return query.read()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def said(url: str, query: str) -> bool | None:
    """Return whether a query stops."""
    return asyncio.run(after_one_answer(StopQuery(url, query)))[0]


@pytest.mark.real
def test_a_real_prometheus_stops_and_lets_go(tmp_path: Path) -> None:
    """Vectors and scalars; one series above 0 of several is enough; what is not there, not a number or wrong stops."""
    page = Page('stop{team="a"} 0\nstop{team="b"} 1\n')
    with served(page):
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "x", "static_configs": [{"targets": [page.address]}]}],
        }
        (tmp_path / "prometheus.yml").write_bytes(msgspec.json.encode(configuration))
        with Prometheus(tmp_path) as prometheus:
            url = prometheus.url
            wait_for(lambda: said(url, "stop") is True, 20, "the stop")
            assert said(url, 'stop{team="a"}') is False
            assert said(url, 'max(stop{team=~"a|b"})') is True
            assert said(url, "vector(0)") is False
            assert said(url, "0") is False
            assert said(url, "2") is True
            assert said(url, "1 / 0") is True
            for no_answer in ("0 / 0", "stopp", "stop[5m]", "stop{", '"text"'):
                assert said(url, no_answer) is None, no_answer
            page.text = 'stop{team="a"} 0\nstop{team="b"} 0\n'
            wait_for(lambda: said(url, "stop") is False, 20, "the end of the stop")
        assert said(url, "stop") is None


async def test_nothing_is_known_before_the_first_answer_nor_long_after_the_last() -> None:
    """An answer counts for a few seconds; a Prometheus that falls silent stops the host."""
    silent = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        if silent.is_set():
            await asyncio.sleep(3600)
        return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "0"]}})

    app = web.Application()
    app.router.add_get("/api/v1/query", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    query = StopQuery(f"http://127.0.0.1:{runner.addresses[0][1]}", "0")
    assert query.read() == (None, "the stop query was not asked yet")
    task = asyncio.create_task(query.run())
    await seen(lambda: query.read()[0] is False)
    silent.set()
    await seen(lambda: query.read()[0] is None)
    task.cancel()
    await asyncio.wait([task])
    await seen(lambda: "lately" in query.read()[1])
    await runner.cleanup()
