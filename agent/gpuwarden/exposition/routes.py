"""What is answered under which path. Reading only; the status socket's verbs are the one exception."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from aiohttp import web

from gpuwarden.errors import ConfigError, GpuwardenError
from gpuwarden.exposition import api, native
from gpuwarden.exposition.credentials import Credentials, parse_basic
from gpuwarden.exposition.history import RING_SECONDS, Point
from gpuwarden.exposition.negotiate import exposition_format, gzip_wanted
from gpuwarden.exposition.page import html
from gpuwarden.exposition.render import Kept, Renderer, RenderSource
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import READINGS
from gpuwarden.model.snapshot import GpuState
from gpuwarden.sidethread import BusyError

EVENT_KINDS = ("finding", "incident", "case", "action", "request")
ANSWER_SECONDS = 5.0
VERB_SECONDS = 30.0
MAX_BODY_BYTES = 64 * 1024
_MAX_EVENTS = 10_000
_DEFAULT_EVENTS = 1000
_EVENT_READERS = 4

Verb = Callable[[dict[str, Any]], Awaitable[Any]]
"""Takes the request's JSON object, returns what is answered as JSON. A GpuwardenError is answered as 400."""

HEADERS = {
    "Server": "gpuwarden",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the start has come."""

    restored: bool = False  # counters and incidents of this boot are back from the journal
    looked_back: bool = False  # the kernel log up to now is read, or cannot be
    nvml_judged: bool = False  # the worker said something: up, no driver, blocked, ...

    @property
    def counting(self) -> bool:
        """Whether a scrape would show counters that only grow from here."""
        return self.restored and self.looked_back

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Return what the start still waits for."""
        steps = (("journal", self.restored), ("kernel log", self.looked_back), ("nvml", self.nvml_judged))
        return tuple(name for name, done in steps if not done)


class NodeSource(RenderSource, Protocol):
    """What the server asks the daemon."""

    def readiness(self) -> Readiness: ...

    def reloading(self) -> bool:
        """Return whether the configuration is being read again right now."""

    def stalled(self) -> str:
        """Return why the main loop no longer takes observations; "" while it does."""

    async def events(self, kind: str | None, since: float | None, limit: int) -> Sequence[Event]:
        """Return the newest `limit` events at or after `since` (Unix time), oldest first."""

    def history(self, uuid: str, reading: str, seconds: float) -> list[Point]: ...


class Routes:
    """The handlers, and what they share: each document is made once for all who ask for it."""

    def __init__(self, source: NodeSource, clock: Callable[[], float]) -> None:
        self._source = source
        self.renderer = Renderer(source, native.families, clock)
        self._status = Kept(source, lambda node, extras: msgspec.json.encode(api.status(node, extras)), clock)
        self._page = Kept(source, html.render, clock)
        self._event_readers = asyncio.Semaphore(_EVENT_READERS)
        self._log = structlog.get_logger()

    def application(
        self,
        began: Callable[[web.Request], None],
        credentials: Callable[[], Credentials | None] = lambda: None,
        headers: Mapping[str, str] | None = None,
        verbs: Mapping[str, Verb] | None = None,
    ) -> web.Application:
        """Return an aiohttp application; with `verbs`, each answers POST /api/v1/<name>."""
        outer = _Outer(began, credentials, {**HEADERS, **(headers or {})}, self._log)
        app = web.Application(middlewares=[outer.handle], client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(outer.add_headers)
        app.router.add_get("/", self.page)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/health", self.health)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/api/v1/status", self.status)
        app.router.add_get("/api/v1/events", self.events)
        app.router.add_get("/api/v1/history", self.history)
        for name in html.STATIC:
            app.router.add_get(f"/static/{name}", self.static)
        for name, verb in (verbs or {}).items():
            app.router.add_post(f"/api/v1/{name}", _posted(verb))
        return app

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer a scrape; 503 until counters are restored, because a counter that falls back looks like a reset."""
        if not self._source.readiness().counting:
            return web.Response(status=503, text="starting: counters are not restored yet\n")
        wanted = self._source.dialects().offered(exposition_format(request.headers.get("Accept", "")))
        zipped = gzip_wanted(request.headers.get("Accept-Encoding", ""))
        headers = {"Content-Type": wanted.content_type, "Vary": "Accept, Accept-Encoding"}
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=self.renderer.get(wanted, zipped=zipped), headers=headers)

    async def page(self, _request: web.Request) -> web.Response:
        """Answer with the status page."""
        return web.Response(body=self._page.get(), content_type="text/html", charset="utf-8")

    async def static(self, request: web.Request) -> web.Response:
        """Answer with one of the page's own files."""
        body, content_type = html.STATIC[request.path.rpartition("/")[2]]
        headers = {"Cache-Control": "max-age=3600"}
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer whether the main loop lives: it is this process that is asked about, not the driver."""
        why = self._source.stalled()
        return web.Response(status=503, text=f"{why}\n") if why else web.Response(text="ok\n")

    async def health(self, _request: web.Request) -> web.Response:
        """Answer as dcgm-exporter's probe does: alive, whether there are metrics, whether they are being exchanged."""
        reloading = self._source.reloading()
        headers = {
            "X-Registry-Available": str(self._source.readiness().counting).lower(),
            "X-Reload-In-Progress": str(reloading).lower(),
        }
        return web.Response(text="OK - reload in progress" if reloading else "OK", headers=headers)

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer whether the start is over."""
        missing = self._source.readiness().waiting_for
        if missing:
            return web.Response(status=503, text=f"starting: waits for {', '.join(missing)}\n")
        return web.Response(text="ok\n")

    async def status(self, _request: web.Request) -> web.Response:
        """Answer with everything known about the node."""
        return web.Response(body=self._status.get(), content_type="application/json")

    async def events(self, request: web.Request) -> web.Response:
        """Answer with a list of events, oldest first."""
        query = _query(request, {"kind", "since", "limit"})
        kind = query.get("kind") or None
        if kind is not None and kind not in EVENT_KINDS:
            raise _bad(f"kind is one of {', '.join(EVENT_KINDS)}")
        since = _number(query, "since", None, low=0.0)
        limit = _number(query, "limit", _DEFAULT_EVENTS, low=1, high=_MAX_EVENTS)
        if self._event_readers.locked():
            raise web.HTTPServiceUnavailable(text="too many readers of events\n")
        async with self._event_readers:
            found = await self._source.events(kind, since, int(limit or _DEFAULT_EVENTS))
        return _json(list(found))

    async def history(self, request: web.Request) -> web.Response:
        """Answer with the last minutes of one reading of one GPU, as [time, value or null] pairs."""
        query = _query(request, {"gpu", "reading", "seconds"})
        seconds = _number(query, "seconds", RING_SECONDS, low=1, high=RING_SECONDS)
        reading = query.get("reading", "")
        if reading.partition(".")[0] not in READINGS:
            raise _bad("reading is the field name of a reading, as /api/v1/status has them")
        gpu = self._gpu(query.get("gpu", ""))
        points = self._source.history(gpu.identity.uuid, reading, float(seconds or RING_SECONDS))
        return _json(
            {
                "gpu": gpu.index,
                "uuid": gpu.identity.uuid,
                "reading": reading,
                "unit": api.unit_of(reading.partition(".")[0]),
                "points": points,
            }
        )

    def _gpu(self, text: str) -> GpuState:
        """Return the GPU of an index or uuid."""
        for gpu in self._source.node().gpus.values():
            if text in (str(gpu.index), gpu.identity.uuid):
                return gpu
        raise web.HTTPNotFound(text="no such gpu: give its index or uuid\n")


class _Outer:
    """What is true of every request: who may ask, no bodies where none belong, a deadline, headers, one error log."""

    def __init__(
        self,
        began: Callable[[web.Request], None],
        credentials: Callable[[], Credentials | None],
        headers: Mapping[str, str],
        log: Any,
    ) -> None:
        self._began = began
        self._credentials = credentials
        self._headers = headers
        self._log = log

    async def add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Put the headers of all answers on one."""
        for name, value in self._headers.items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = self._headers["Server"]

    @web.middleware
    async def handle(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer one request (aiohttp middleware)."""
        self._began(request)
        if request.can_read_body and request.method != "POST":
            refused = web.Response(status=413, text="no body is expected here\n")
            refused.force_close()
            return refused
        try:
            async with asyncio.timeout(VERB_SECONDS if request.method == "POST" else ANSWER_SECONDS):
                await self._authorise(request)
                return await handler(request)
        except web.HTTPException:
            raise
        except (TimeoutError, BusyError):
            return web.Response(status=503, text="busy\n", headers={"Retry-After": "1"})
        except GpuwardenError as error:
            return web.Response(status=503, text=f"{error}\n")
        except Exception:
            self._log.exception("request.failed", path=request.path[:200])
            return web.Response(status=500, text="internal error\n")

    async def _authorise(self, request: web.Request) -> None:
        credentials = self._credentials()
        if credentials is None:
            return
        given = parse_basic(request.headers.get("Authorization", ""))
        if given is None or not await credentials.right(*given):
            raise web.HTTPUnauthorized(text="unauthorised\n", headers={"WWW-Authenticate": 'Basic realm="gpuwarden"'})


def _posted(verb: Verb) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await request.read()
            asked = msgspec.json.decode(body) if body else {}
            if not isinstance(asked, dict):
                raise _bad("the body is a JSON object")
            return _json(await verb(asked))
        except msgspec.DecodeError as error:
            raise _bad(f"the body is not JSON: {error}") from error
        except ConfigError as error:
            return _json({"error": str(error), "problems": error.problems}, status=400)
        except GpuwardenError as error:
            return _json({"error": str(error)}, status=400)

    return handle


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


def _bad(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"{text}\n")


def _query(request: web.Request, known: set[str]) -> Mapping[str, str]:
    """Return the query, each key once. Raises: HTTPBadRequest for keys that mean nothing here."""
    unknown = set(request.query) - known
    if unknown:
        raise _bad(f"parameters are {', '.join(sorted(known))}")
    return request.query


def _number(
    query: Mapping[str, str], name: str, default: float | None, low: float, high: float = math.inf
) -> float | None:
    text = query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high or math.isinf(value):
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}"
        raise _bad(f"{name} is a number {bounds}")
    return value
