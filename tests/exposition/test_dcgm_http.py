"""The dcgm dialect over HTTP: beside or instead of the native metrics, exchanged while it runs, and its probe."""

from __future__ import annotations

import gzip

from msgspec.structs import replace

from gpuwarden.exposition.dcgm import default_dialect
from gpuwarden.exposition.render import Dialects
from gpuwarden.exposition.routes import Readiness
from support.webserver import Running, Source

PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


async def test_both_dialects_stand_in_one_body(running: Running, source: Source) -> None:
    """`dcgm = true` adds families; whoever asks for OpenMetrics gets the text format all the same."""
    source.shown = Dialects(dcgm=default_dialect("rig7"))
    answer = await running.get(Accept=PROMETHEUS, Accept_Encoding="gzip")
    body = gzip.decompress(answer.body).decode()
    assert answer.headers["content-type"] == PLAIN
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "# TYPE gpuwarden_gpu_temperature_celsius gauge" in body
    assert "# TYPE DCGM_FI_DEV_GPU_TEMP gauge" in body
    assert "# EOF" not in body


async def test_the_swap_shows_nothing_else(running: Running, source: Source) -> None:
    """`native = false`: every family is one of dcgm's."""
    source.shown = Dialects(native=False, dcgm=default_dialect("rig7"))
    body = (await running.get()).body.decode()
    assert {line[7:15] for line in body.splitlines() if line.startswith("# TYPE")} == {"DCGM_FI_"}


async def test_an_empty_body_has_a_type(running: Running, source: Source) -> None:
    """No GPU, nothing to say: Prometheus 3 still needs to know what it is reading."""
    source.shown = Dialects(native=False, dcgm=default_dialect("rig7"))
    source.state = replace(source.state, gpus={})
    answer = await running.get()
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", PLAIN)


async def test_a_change_of_dialects_shows_at_once(running: Running, source: Source) -> None:
    """The state did not move, but what it is shown as did."""
    assert b"DCGM_" not in (await running.get()).body
    source.shown = Dialects(dcgm=default_dialect("rig7"))
    assert b"DCGM_" in (await running.get()).body
    assert b"DCGM_" in gzip.decompress((await running.get(Accept_Encoding="gzip")).body)


async def test_health_is_dcgm_exporters_probe(running: Running, source: Source) -> None:
    """200 and OK, with what it says in headers."""
    answer = await running.get("/health")
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["x-registry-available"] == "true"
    assert answer.headers["x-reload-in-progress"] == "false"
    source.ready, source.is_reloading = Readiness(), True
    answer = await running.get("/health")
    assert (answer.status, answer.body) == (200, b"OK - reload in progress")
    assert answer.headers["x-registry-available"] == "false"
    assert answer.headers["x-reload-in-progress"] == "true"
