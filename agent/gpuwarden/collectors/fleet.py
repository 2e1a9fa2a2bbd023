"""The fleet as Prometheus sees it: how many hosts there are, how many are out, and what many of them caught at once.

Two guards stand on it and fail closed: whatever is not a whole, sound answer is no answer (`FleetAsked(None)`). That is
said once, and again only when it changes. An answer is as old as the last scrape, so two hosts that ask at the same
moment may both go: where that is too many, a scheduler gives out slots one at a time.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping

import structlog

from gpuwarden.collectors.endpoint import EndpointError
from gpuwarden.collectors.prometheus import Prometheus, Sample, asked_at
from gpuwarden.model.case import CaseState, Fleet
from gpuwarden.model.observation import AnyObservation, FleetAsked, Stamp
from gpuwarden.model.snapshot import NodeState

_PERIODS = (60.0, 15.0)  # at rest, and while a case waits
_LOOK_SECONDS = 1.0  # how often it is looked whether one does
_DEADLINE_SECONDS = 10.0
_POOL_LABELS = ("cluster",)
_NOBODY = "none"

HOSTS = 'count(group by (instance) (up{job="gpuwarden"POOL}))'
"""The hosts of the pool: every target of the job, also one that does not answer.

They are told apart by `instance`, the one label that every target has. The pool is the cluster, or everything this
Prometheus scrapes where the host has no such label: room and rack say where a host stands, and a limit for each rack
would be a weaker one."""

HOSTS_OUT = """\
count(group by (instance) (
  (up{job="gpuwarden"POOL} unless on (instance)
    (up{job="gpuwarden"POOL} == 1 and on (instance) gpuwarden_build_info{job="gpuwarden"POOL}))
  or on (instance) (last_over_time(gpuwarden_host_out_of_service{job="gpuwarden"POOL}[1h]) == 1)
  or on (instance) (gpuwarden_cases{job="gpuwarden", state=~"isolating|acting|verifying|soaking"POOL} > 0)
) unless on (instance) gpuwarden_case_info{job="gpuwarden", case=~"OURS"POOL}) or vector(0)"""
"""The other hosts that are out, each once, for whichever reason:

- they do not answer, or answer without our metrics: one in the middle of its reboot has no series that could say so;
- they said last that new work is kept away from them, by whomever. For an hour that also counts of a host whose target
  went with it (a pod of a node that reboots);
- a case is at work on them: a host without isolation never says that it is out.

This host is left out by its open cases, whose ids begin with its boot id; with none open it is like any other."""

HOSTS_WITH = (
    "count by (kind) (group by (kind, instance) (last_over_time("
    'gpuwarden_incident_start_timestamp_seconds{job="gpuwarden"POOL}[15m]) > time() - 900))'
)
"""Hosts by the kind of finding that began on them within 15 minutes: a host counts once for a kind however many of its
GPUs have it, and still counts when it fell silent or recovered since. The start is the host's own clock's; one that is
fast counts for longer."""


def asked_of(query: str, labels: Mapping[str, str], ours: tuple[str, ...] = ()) -> str:
    """Return a query about the pool of a host with these labels, on which these cases are open."""
    pool = "".join(f", {name}={_quoted(labels[name])}" for name in _POOL_LABELS if name in labels)
    cases = "|".join(re.sub(r"[^A-Za-z0-9_-]", "", case) for case in ours) or _NOBODY
    return re.sub("POOL|OURS", lambda name: pool if name[0] == "POOL" else cases, query)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class FleetWatch:
    """Asks once a minute, and four times as often while a case waits; emits a FleetAsked each time."""

    def __init__(
        self,
        url: str,
        labels: Mapping[str, str],
        node: Callable[[], NodeState],
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        periods: tuple[float, float] = _PERIODS,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._url = url
        self._labels = labels
        self._node = node
        self._emit = emit
        self._clock = clock
        self._periods = periods
        self._look_seconds = look_seconds
        self._said: str | None = None
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Ask until cancelled."""
        loop = asyncio.get_running_loop()
        async with asked_at("fleet", self._url, _DEADLINE_SECONDS) as prometheus:
            last = -math.inf
            while True:
                if loop.time() - last >= self._period_seconds():
                    last, at = loop.time(), self._clock()  # an answer is no younger than its question
                    self._emit(FleetAsked(at=at, fleet=await self._asked(prometheus)))
                await asyncio.sleep(self._look_seconds)

    def _period_seconds(self) -> float:
        waits = any(case.state is CaseState.WAITING for case in self._node().remedy.cases.values())
        return self._periods[waits]

    async def _asked(self, prometheus: Prometheus) -> Fleet | None:
        ours = tuple(self._node().remedy.cases)
        try:
            hosts = _count(await prometheus.ask(asked_of(HOSTS, self._labels)))
            out = _count(await prometheus.ask(asked_of(HOSTS_OUT, self._labels, ours)))
            kinds = await prometheus.ask(asked_of(HOSTS_WITH, self._labels))
            fleet = Fleet(hosts=hosts, hosts_out=out, hosts_with={_kind(each): _whole(each.value) for each in kinds})
        except EndpointError as error:
            self._say(str(error))
            return None
        self._say("")
        return fleet

    def _say(self, detail: str) -> None:
        """Log a change of what is wrong. The address stays out: it may hold a password."""
        said, self._said = self._said, detail
        if detail and detail != said:
            self._log.warning("fleet.not_answered", detail=detail)
        elif not detail and said != "":
            self._log.info("fleet.answered")


def _count(samples: tuple[Sample, ...]) -> int:
    """Return the one number of an answer; nothing at all is no fleet of none, but a question that went amiss."""
    if len(samples) != 1:
        raise EndpointError(f"{len(samples)} numbers where one is asked for: is the job called gpuwarden?")
    return _whole(samples[0].value)


def _whole(value: float) -> int:
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise EndpointError(f"{value} is no number of hosts")
    return int(value)


def _kind(sample: Sample) -> str:
    kind = sample.labels.get("kind")
    if kind is None:
        raise EndpointError("a number of hosts without the kind it is about")
    return kind
