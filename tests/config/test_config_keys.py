"""Keys and values of the configuration, one by one and together."""

from __future__ import annotations

import pytest

from gpuwarden.config import Config, parse
from gpuwarden.errors import ConfigError


def problems(text: str) -> dict[str, str]:
    """Return what is wrong with a document, by key path."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return dict(caught.value.problems)


def test_five_mistakes_are_reported_at_once() -> None:
    """Whatever is wrong with a file is said in one go, each with its key's path, and the exit code is EX_CONFIG."""
    text = """
    moed = "enforce"
    expected_gpus = "eight"
    [poll]
    fast_seconds = 0.0
    [web]
    listen = ["localhost"]
    [checks."thermal.core_near_limit"]
    near_kelvin = 4
    """
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.exit_code == 78
    assert [path for path, _ in caught.value.problems] == [
        "moed",
        "expected_gpus",
        "poll.fast_seconds",
        'checks."thermal.core_near_limit".near_kelvin',
        "web.listen[0]",
    ]


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        pytest.param("pol = {}", "pol", "did you mean poll?", id="section-misspelt"),
        pytest.param("[thermal]\ngovenor = true", "thermal.govenor", "did you mean governor?", id="key-misspelt"),
        pytest.param("[load]\nzzz = 1", "load.zzz", "there are utilization_ratio, settle_seconds", id="nothing-near"),
        pytest.param("expected_gpus = 1.5", "expected_gpus", "a whole number from 0 to 1024", id="float-for-int"),
        pytest.param("expected_gpus = true", "expected_gpus", "not true", id="bool-is-no-number"),
        pytest.param("expected_gpus = -1", "expected_gpus", "not -1", id="below-range"),
        pytest.param(
            "[guards]\nboot_grace_seconds = -1", "guards.boot_grace_seconds", "from 0 to 31536000,", id="large-bound"
        ),
        pytest.param("[poll]\nfast_seconds = nan", "poll.fast_seconds", "not nan", id="nan"),
        pytest.param("[poll]\nslow_seconds = inf", "poll.slow_seconds", "not inf", id="infinite"),
        pytest.param('mode = "on"', "mode", 'one of "enforce", "shadow"', id="not-a-member"),
        pytest.param("web = 3", "web", "must be a table, not 3", id="value-for-section"),
        pytest.param("[web]\nlisten = ':1'", "web.listen", "a list, each entry a string", id="value-for-list"),
        pytest.param("[web]\nlisten = [1]", "web.listen[0]", "must be a string, not 1", id="entry-of-list"),
        pytest.param('state_dir = "/a\\u0000b"', "state_dir", "must be a string", id="nul-in-path"),
        pytest.param("[host]\nlabels = { rack = 7 }", "host.labels.rack", "a string, not 7", id="entry-of-table"),
        pytest.param(
            '[thermal]\ncore_limit_celsius = "hot"', "thermal.core_limit_celsius", 'or "auto"', id="number-or-word"
        ),
        pytest.param(
            '[checks."thermal.core_near_limt"]',
            'checks."thermal.core_near_limt"',
            "did you mean thermal.core_near_limit?",
            id="kind-misspelt",
        ),
        pytest.param(
            "[checks.thermal.core_near_limit]\nenabled = false",
            "checks.thermal",
            'the name needs quotes: [checks."thermal.core_near_limit"]',
            id="kind-without-quotes",
        ),
        pytest.param(
            '[checks."power.power_brake"]\nshare_ratio = 1.5',
            'checks."power.power_brake".share_ratio',
            "from 0 to 1",
            id="threshold-out-of-its-unit",
        ),
        pytest.param(
            '[checks."power.power_brake"]\nthresholds = { share_ratio = 0.5 }',
            'checks."power.power_brake".thresholds',
            "no such key",
            id="thresholds-is-not-a-key",
        ),
        pytest.param(
            '[checks."power.power_brake"]\nseverity = "fatal"',
            'checks."power.power_brake".severity',
            'one of "info", "warning", "critical"',
            id="no-such-severity",
        ),
        pytest.param('checks = { "power.power_brake" = 1 }', 'checks."power.power_brake"', "a table", id="check-value"),
        pytest.param(
            '[ladder]\n"xid.xid_79" = ["reboot", "pray"]',
            'ladder."xid.xid_79"[1]',
            '"command:<name>"',
            id="no-such-rung",
        ),
        pytest.param('[ladder]\n"xid.xid_79" = []', 'ladder."xid.xid_79"', "list of rungs", id="empty-ladder"),
    ],
)
def test_a_key_or_value_that_cannot_be(text: str, path: str, says: str) -> None:
    """One mistake is one problem, at the path TOML would give that key, in words its author understands."""
    found = problems(text)
    assert list(found) == [path]
    assert says in found[path]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[poll]\nfast_seconds = 1", id="whole-number-for-a-number"),
        pytest.param("[thermal]\ncore_limit_celsius = 88", id="number-where-auto-is-possible"),
        pytest.param('[checks."xid.xid_79"]\nlatch_seconds = 60', id="latch-of-an-event"),
        pytest.param('[ladder]\n"xid.xid_79" = ["command:power-cycle", "hold"]', id="command-rung"),
        pytest.param("[budget]\nfleet_max_ratio = 0.05", id="ratio-or-unset"),
    ],
)
def test_every_key_is_optional_and_numbers_need_no_point(text: str) -> None:
    """A document with any subset of keys is a configuration."""
    assert isinstance(parse(text), Config)
