"""What single keys cannot say: formats of addresses, paths and names, and combinations that make no sense."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import msgspec

from gpuwarden.config.keys import Problem, joined
from gpuwarden.config.schema import Config
from gpuwarden.config.windows import window_of
from gpuwarden.model.kinds import KINDS

_BDF = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.@\\-]*\.(service|socket|timer|target|slice|scope)")
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\s:/\[\]]*)):(?P<port>[0-9]{1,5})")


class Rule(msgspec.Struct, frozen=True):
    """One rule and the keys it reads: it is not asked while one of them has a problem of its own."""

    keys: tuple[str, ...]
    check: Callable[[Config], Iterable[Problem]]


def broken_rules(config: Config, doubtful: Iterable[str]) -> list[Problem]:
    """Return what is wrong with a configuration whose keys are right one by one, save those below `doubtful`."""
    paths = list(doubtful)
    return [
        problem
        for rule in RULES
        if not any(path == key or path.startswith((f"{key}.", f"{key}[")) for path in paths for key in rule.keys)
        for problem in rule.check(config)
    ]


def _not_both_off(config: Config) -> Iterator[Problem]:
    if not (config.exposition.native or config.exposition.dcgm):
        yield "exposition.native", "must not be false while exposition.dcgm is false: /metrics would be empty"


def _dcgm_paths(config: Config) -> Iterator[Problem]:
    for key in ("dcgm_counters", "dcgm_hpc_job_mapping_dir"):
        value: str = getattr(config.exposition, key)
        if value and not PurePosixPath(value).is_absolute():
            yield f"exposition.{key}", f'must be an absolute path, not "{value}"'


def _periods_ascend(config: Config) -> Iterator[Problem]:
    poll = config.poll
    if poll.fast_seconds > poll.normal_seconds:
        yield "poll.fast_seconds", f"must not be above poll.normal_seconds ({poll.normal_seconds:g})"
    if poll.normal_seconds > poll.slow_seconds:
        yield "poll.normal_seconds", f"must not be above poll.slow_seconds ({poll.slow_seconds:g})"


def _directories(config: Config) -> Iterator[Problem]:
    for key in ("state_dir", "runtime_dir"):
        value: str = getattr(config, key)
        if not PurePosixPath(value).is_absolute():
            yield key, f'must be an absolute path, not "{value}"'
    if PurePosixPath(config.state_dir) == PurePosixPath(config.runtime_dir):
        yield "runtime_dir", "must not be state_dir: what it holds does not outlive a boot"


def _stop_paths(config: Config) -> Iterator[Problem]:
    for number, path in enumerate(config.guards.stop_paths):
        if not PurePosixPath(path).is_absolute():
            yield f"guards.stop_paths[{number}]", f'must be an absolute path, not "{path}"'


def _addresses(config: Config) -> Iterator[Problem]:
    if not config.web.listen:
        yield "web.listen", "must name at least one address"
    for number, address in enumerate(config.web.listen):
        found = _ADDRESS.fullmatch(address)
        if found is None or int(found["port"]) > 65535:
            yield f"web.listen[{number}]", f'must be ":PORT", "HOST:PORT" or "[IPV6]:PORT", not "{address}"'
        elif address in config.web.listen[:number] and int(found["port"]) != 0:
            yield f"web.listen[{number}]", f'"{address}" stands there twice'


def _labels(config: Config) -> Iterator[Problem]:
    for name in config.host.labels:
        if not _LABEL.fullmatch(name):
            yield joined("host.labels", name), "must be a Prometheus label name: letters, digits and _, not __ in front"


def _slots(config: Config) -> Iterator[Problem]:
    for bdf in config.host.slots:
        if not _BDF.fullmatch(bdf):
            yield joined("host.slots", bdf), 'must be a PCI address as sysfs writes it: "0000:3b:00.0"'


def _target_below_limit(config: Config) -> Iterator[Problem]:
    target, limit = config.thermal.target_celsius, config.thermal.core_limit_celsius
    if target != "auto" and limit != "auto" and target >= limit:
        yield "thermal.target_celsius", f"must be below thermal.core_limit_celsius ({limit:g})"


def _windows(config: Config) -> Iterator[Problem]:
    for number, text in enumerate(config.guards.maintenance_windows):
        try:
            window_of(text)
        except ValueError as error:
            yield f"guards.maintenance_windows[{number}]", f'{error}, not "{text}"'


def _isolation(config: Config) -> Iterator[Problem]:
    isolation = config.isolation
    if isolation.backend == "command" and not isolation.command:
        yield "isolation.command", 'must be set where isolation.backend is "command"'
    if isolation.backend == "systemd" and not isolation.units:
        yield "isolation.units", 'must name a unit where isolation.backend is "systemd"'
    if isolation.cordon and isolation.backend != "kubernetes":
        yield "isolation.cordon", 'needs isolation.backend = "kubernetes"'


def _actuator(config: Config) -> Iterator[Problem]:
    actuator = config.actuator
    if not PurePosixPath(actuator.socket).is_absolute():
        yield "actuator.socket", f'must be an absolute path, not "{actuator.socket}"'
    if not all(PurePosixPath(folder).is_absolute() for folder in actuator.path.split(":")):
        yield "actuator.path", f'must be absolute directories with a colon between them, not "{actuator.path}"'


def _units(config: Config) -> Iterator[Problem]:
    for key, units in (
        ("isolation.units", config.isolation.units),
        ("actuator.pause_units", config.actuator.pause_units),
    ):
        for number, unit in enumerate(units):
            if not _UNIT.fullmatch(unit):
                yield f"{key}[{number}]", f'must be a unit with its type, such as "miner.service", not "{unit}"'


def _one_fleet_size(config: Config) -> Iterator[Problem]:
    if config.budget.fleet_max_hosts != "unset" and config.budget.fleet_max_ratio != "unset":
        yield "budget.fleet_max_ratio", "must not be set together with budget.fleet_max_hosts"


def _urls(config: Config) -> Iterator[Problem]:
    for path, url in (
        ("budget.prometheus_url", config.budget.prometheus_url),
        ("workload.throughput_url", config.workload.throughput_url),
    ):
        if url and not _is_http(url):
            yield path, f'must be an http or https URL, not "{url}"'
    if config.workload.throughput_metric and not config.workload.throughput_url:
        yield "workload.throughput_metric", "needs workload.throughput_url"
    if config.workload.throughput_url and not config.workload.throughput_metric:
        yield "workload.throughput_metric", "must name the figure that workload.throughput_url answers with"


def _stop_query(config: Config) -> Iterator[Problem]:
    if config.guards.stop_query and not config.budget.prometheus_url:
        yield "guards.stop_query", "needs budget.prometheus_url"


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _latches(config: Config) -> Iterator[Problem]:
    for name, override in config.checks.items():
        if override.latch_seconds is not None and name in KINDS and KINDS[name].defaults.event_class is None:
            yield f"{joined('checks', name)}.latch_seconds", f"{name} is no event: it ends when it is no longer true"


RULES: tuple[Rule, ...] = (
    Rule(("exposition.native", "exposition.dcgm"), _not_both_off),
    Rule(("exposition.dcgm_counters", "exposition.dcgm_hpc_job_mapping_dir"), _dcgm_paths),
    Rule(("poll",), _periods_ascend),
    Rule(("state_dir", "runtime_dir"), _directories),
    Rule(("guards.stop_paths",), _stop_paths),
    Rule(("web.listen",), _addresses),
    Rule(("host.labels",), _labels),
    Rule(("host.slots",), _slots),
    Rule(("thermal.target_celsius", "thermal.core_limit_celsius"), _target_below_limit),
    Rule(("guards.maintenance_windows",), _windows),
    Rule(("isolation",), _isolation),
    Rule(("actuator",), _actuator),
    Rule(("isolation.units", "actuator.pause_units"), _units),
    Rule(("budget.fleet_max_hosts", "budget.fleet_max_ratio"), _one_fleet_size),
    Rule(("budget.prometheus_url", "workload"), _urls),
    Rule(("guards.stop_query", "budget.prometheus_url"), _stop_query),
    Rule(("checks",), _latches),
)
