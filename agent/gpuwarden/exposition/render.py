"""The node's state -> bytes, once per snapshot: scrapes are answered from memory.

Two ideas keep this cheap. A family whose samples did not change since the last rendering keeps its bytes, so only
what moved is formatted again. And a format is kept fresh ahead of the scrape only while somebody asked for it within
the last minute; the first scraper after a pause waits for one rendering.
"""

from __future__ import annotations

import enum
import gzip
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec
from prometheus_client import exposition as text_format
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gpuwarden.exposition import dcgm
from gpuwarden.exposition.native import Extras
from gpuwarden.model.snapshot import NodeState

FRESH_SECONDS = 1.0
"""A rendering older than this is not served when the state has moved on since."""
WANTED_SECONDS = 60.0
"""For how long after the last request a format is kept fresh."""
GZIP_LEVEL = 1  # level 6 halves the size once more for three times the time; a scrape stays under 20 KiB anyway

_OPENMETRICS_END = b"# EOF\n"


class Format(enum.Enum):
    """The formats of a scrape."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"

    @property
    def content_type(self) -> str:
        """Return the value of the Content-Type header."""
        return _CONTENT_TYPES[self]


_CONTENT_TYPES = {
    Format.TEXT: text_format.CONTENT_TYPE_PLAIN_0_0_4,
    Format.OPENMETRICS: openmetrics.CONTENT_TYPE_LATEST,
}


class Dialects(msgspec.Struct, frozen=True, kw_only=True):
    """Under which names the state is shown."""

    native: bool = True
    dcgm: dcgm.Dialect | None = None

    def offered(self, wanted: Format) -> Format:
        """Return the format to answer in. OpenMetrics wants `_total` behind a counter's name and dcgm's counters have
        none, so where they are shown there is the text format only."""
        return Format.TEXT if self.dcgm is not None else wanted


class RenderSource(Protocol):
    """Where the renderer takes the state from. `node` and `dialects` are cheap; `extras` is asked once a rendering."""

    def node(self) -> NodeState: ...

    def extras(self) -> Extras: ...

    def dialects(self) -> Dialects: ...


class _Single(Collector):
    """One family as the registry that prometheus_client's renderers ask for."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def render_family(metric: Metric, wanted: Format) -> bytes:
    """Return one family as prometheus_client writes it, without OpenMetrics' end mark.

    Our names are plain, so they need no escaping: saying so spares OpenMetrics a walk over each name's characters.
    """
    if wanted is Format.TEXT:
        return text_format.generate_latest(_Single(metric), escaping=openmetrics.ALLOWUTF8)
    body: bytes = openmetrics.generate_latest(_Single(metric), escaping=openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
    return body.removesuffix(_OPENMETRICS_END)


class _Bytes:
    """The families of the last snapshot and their bytes, by format."""

    def __init__(self) -> None:
        self._known: dict[Format, dict[str, tuple[Metric, bytes]]] = {each: {} for each in Format}

    def join(self, metrics: Iterable[Metric], wanted: Format) -> bytes:
        """Return the exposition, formatting only families that changed."""
        before = self._known[wanted]
        after: dict[str, tuple[Metric, bytes]] = {}
        for metric in metrics:
            known = before.get(metric.name)
            if known is None or known[0].samples != metric.samples:
                known = (metric, render_family(metric, wanted))
            after[metric.name] = known
        self._known[wanted] = after
        end = _OPENMETRICS_END if wanted is Format.OPENMETRICS else b""
        return b"".join(body for _, body in after.values()) + end

    def forget(self, wanted: Format) -> None:
        """Give back the memory of a format that nobody asks for."""
        self._known[wanted] = {}


class _Rendered(NamedTuple):
    node: NodeState
    at: float
    body: bytes
    dialects: Dialects = Dialects()


def urgent(before: NodeState, after: NodeState) -> bool:
    """Return whether what changed must not wait for the next rendering: an incident, an Xid, a GPU's presence.

    Compares identities where it can: state is replaced, never mutated, so what did not change is the same object.
    """
    if before.incidents is not after.incidents or before.sxids is not after.sxids or before.drill != after.drill:
        return True
    if before.nvml.state is not after.nvml.state or len(before.gpus) != len(after.gpus):
        return True
    if before.gpus is after.gpus:
        return False
    return any(_moved(before.gpus.get(uuid), gpu) for uuid, gpu in after.gpus.items())


def _moved(before: object, after: object) -> bool:
    return before is not after and any(
        getattr(before, field, None) is not getattr(after, field) for field in ("xids", "presence", "health")
    )


def outdated(held: _Rendered, node: NodeState, now: float) -> bool:
    """Return whether the state moved on and what was rendered may no longer be served."""
    return held.node is not node and (now - held.at > FRESH_SECONDS or urgent(held.node, node))


class Kept:
    """One document made from the state, made again only when it is outdated: many readers cost what one costs."""

    def __init__(
        self, source: RenderSource, make: Callable[[NodeState, Extras], bytes], clock: Callable[[], float]
    ) -> None:
        self._source = source
        self._make = make
        self._clock = clock
        self._held: _Rendered | None = None

    def get(self) -> bytes:
        """Return the document, at most a second old."""
        node, now = self._source.node(), self._clock()
        if self._held is None or outdated(self._held, node, now):
            self._held = _Rendered(node, now, self._make(node, self._source.extras()))
        return self._held.body


Families = Callable[[NodeState, Extras], Iterator[Metric]]


class Renderer:
    """Holds one rendering per format, plain and compressed.

    `clock` is monotonic seconds. `families` says which native metrics there are; the dcgm dialect follows them.
    """

    def __init__(self, source: RenderSource, families: Families, clock: Callable[[], float]) -> None:
        self._source = source
        self._families = families
        self._clock = clock
        self._bytes = _Bytes()
        self._plain: dict[Format, _Rendered] = {}
        self._zipped: dict[Format, _Rendered] = {}
        self._asked: dict[tuple[Format, bool], float] = {}
        self.renderings = 0

    def get(self, wanted: Format, *, zipped: bool) -> bytes:
        """Return the exposition for a scrape, from memory wherever that is still true."""
        now = self._clock()
        self._asked[(wanted, zipped)] = now
        held = self._plain.get(wanted)
        if held is None or outdated(held, self._source.node(), now) or self._changed(held):
            self._render(wanted, now)
        return self._compressed(wanted) if zipped else self._plain[wanted].body

    def refresh(self) -> None:
        """Render ahead what was asked for within the last minute, and let go of the rest. Call once a second."""
        now = self._clock()
        self._asked = {key: at for key, at in self._asked.items() if now - at <= WANTED_SECONDS}
        for wanted in Format:
            if not {(wanted, False), (wanted, True)} & self._asked.keys():
                self._plain.pop(wanted, None)
                self._zipped.pop(wanted, None)
                self._bytes.forget(wanted)
            elif self._plain[wanted].node is not self._source.node() or self._changed(self._plain[wanted]):
                self._render(wanted, now)
                if (wanted, True) in self._asked:
                    self._compressed(wanted)

    def _changed(self, held: _Rendered) -> bool:
        return held.dialects is not self._source.dialects()

    def _render(self, wanted: Format, now: float) -> None:
        node, dialects = self._source.node(), self._source.dialects()
        body = b""
        if dialects.native:
            body = self._bytes.join(self._families(node, self._source.extras()), wanted)
        if dialects.dcgm is not None and wanted is Format.TEXT:
            body += dcgm.render(node, dialects.dcgm)
        self._plain[wanted] = _Rendered(node, now, body, dialects)
        self.renderings += 1

    def _compressed(self, wanted: Format) -> bytes:
        plain, zipped = self._plain[wanted], self._zipped.get(wanted)
        if zipped is None or zipped.node is not plain.node or zipped.dialects is not plain.dialects:
            zipped = _Rendered(plain.node, plain.at, gzip.compress(plain.body, GZIP_LEVEL, mtime=0), plain.dialects)
            self._zipped[wanted] = zipped
        return zipped.body
