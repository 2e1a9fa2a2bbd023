"""What the keys of the configuration must be together."""

from __future__ import annotations

import pytest

from gpuwarden.config import parse
from gpuwarden.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("[exposition]\nnative = false", "exposition.native", id="nothing-exposed"),
        pytest.param('[exposition]\ndcgm_counters = "c.csv"', "exposition.dcgm_counters", id="relative-counters-file"),
        pytest.param("[poll]\nfast_seconds = 20", "poll.fast_seconds", id="fast-slower-than-normal"),
        pytest.param("[poll]\nnormal_seconds = 90", "poll.normal_seconds", id="normal-slower-than-slow"),
        pytest.param('state_dir = "var"', "state_dir", id="relative-directory"),
        pytest.param('state_dir = "/run/gpuwarden/"', "runtime_dir", id="one-directory-for-both"),
        pytest.param('[guards]\nstop_paths = ["stop"]', "guards.stop_paths[0]", id="relative-stop-path"),
        pytest.param("[web]\nlisten = []", "web.listen", id="no-address"),
        pytest.param('[web]\nlisten = [":99999"]', "web.listen[0]", id="no-such-port"),
        pytest.param('[web]\nlisten = [":1", "h:2", ":1"]', "web.listen[2]", id="address-twice"),
        pytest.param('[host]\nlabels = { "a-b" = "c" }', "host.labels.a-b", id="label-name"),
        pytest.param('[host]\nslots = { "3B:00.0" = "1" }', 'host.slots."3B:00.0"', id="bdf-form"),
        pytest.param(
            "[thermal]\ntarget_celsius = 80\ncore_limit_celsius = 80", "thermal.target_celsius", id="target-at-limit"
        ),
        pytest.param('[isolation]\nbackend = "command"', "isolation.command", id="no-command"),
        pytest.param('[isolation]\nbackend = "systemd"', "isolation.units", id="no-units"),
        pytest.param("[isolation]\ncordon = true", "isolation.cordon", id="cordon-without-kubernetes"),
        pytest.param('[isolation]\nunits = ["miner"]', "isolation.units[0]", id="unit-without-its-type"),
        pytest.param('[actuator]\npause_units = ["-x.service"]', "actuator.pause_units[0]", id="unit-like-an-option"),
        pytest.param('[actuator]\nsocket = "a.sock"', "actuator.socket", id="relative-actuator-socket"),
        pytest.param('[actuator]\npath = "/bin:"', "actuator.path", id="current-directory-on-the-path"),
        pytest.param(
            "[budget]\nfleet_max_hosts = 2\nfleet_max_ratio = 0.1", "budget.fleet_max_ratio", id="two-fleet-sizes"
        ),
        pytest.param('[budget]\nprometheus_url = "ftp://x"', "budget.prometheus_url", id="not-http"),
        pytest.param('[guards]\nstop_query = "stop"', "guards.stop_query", id="query-of-nobody"),
        pytest.param('[workload]\nthroughput_metric = "h"', "workload.throughput_metric", id="metric-of-nothing"),
        pytest.param(
            '[workload]\nthroughput_url = "http://h/"', "workload.throughput_metric", id="endpoint-without-metric"
        ),
        pytest.param(
            '[checks."thermal.hw_slowdown"]\nlatch_seconds = 5',
            'checks."thermal.hw_slowdown".latch_seconds',
            id="latch-of-a-state",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(text: str, path: str) -> None:
    """A configuration that could not do what it says is refused, at the key to change."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert [found for found, _ in caught.value.problems] == [path]


def test_a_rule_is_not_asked_about_a_key_that_is_wrong_itself() -> None:
    """One mistake is reported once: no rule judges the default that stands in for a refused value."""
    with pytest.raises(ConfigError) as caught:
        parse('[poll]\nnormal_seconds = "ten"\nfast_seconds = 30')
    assert [path for path, _ in caught.value.problems] == ["poll.normal_seconds"]


@pytest.mark.parametrize("address", [":0", "0.0.0.0:9878", "[::]:9878", "gpu-7.example.org:80", "[fe80::1%eth0]:1"])
def test_addresses_of_every_form(address: str) -> None:
    """Ports alone, host names, IPv4 and bracketed IPv6 with a zone can be listened on."""
    assert parse(f'[web]\nlisten = ["{address}"]').web.listen == (address,)
