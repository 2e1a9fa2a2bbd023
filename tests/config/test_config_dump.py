"""The effective configuration as text, and as the engine's settings."""

from __future__ import annotations

import tomllib

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.config import Config, dump_toml, parse, settings_of, unused_keys
from gpuwarden.config.schema import NOT_USED_YET, NOTES
from gpuwarden.model.kinds import KINDS, default_settings
from gpuwarden.model.severity import Severity

RICH = """
expected_gpus = 8
[host]
labels = { rack = "r\\"7\\\\" }
slots = { "0000:3b:00.0" = "PCIe 4" }
[thermal]
core_limit_celsius = 88
[checks."thermal.core_near_limit"]
enabled = false
severity = "critical"
hold_seconds = 5
near_celsius = 7
[checks."xid.xid_79"]
latch_seconds = 60.0
[ladder]
"xid.xid_79" = ["reboot", "hold"]
"""

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def test_the_dump_reads_back_as_the_same_configuration() -> None:
    """`config show` prints a file that can be used as it is."""
    for config in (Config(), parse(RICH)):
        assert parse(dump_toml(config)) == config


@given(
    value=TEXT,
    key=TEXT,
    seconds=st.floats(0.1, 60.0),
    ratio=st.one_of(st.just("unset"), st.floats(0.0, 1.0), st.integers(0, 1)),
)
def test_any_text_and_number_survives_the_dump(value: str, key: str, seconds: float, ratio: float | str) -> None:
    """Quotes, control characters, line ends and odd numbers read back as they were, in values and in keys."""
    plain = msgspec.to_builtins(
        {"guards": {"stop_query": value}, "poll": {"fast_seconds": seconds, "normal_seconds": 60.0}}
    )
    config = msgspec.convert({**plain, "host": {"labels": {key: value}}, "budget": {"fleet_max_ratio": ratio}}, Config)
    document = tomllib.loads(dump_toml(config))
    checks = {name: document[name] for name in ("guards", "poll", "host", "budget")}
    assert msgspec.convert(checks, Config) == config


def test_the_dump_shows_every_key_and_every_kind() -> None:
    """Every section, key and finding kind stands in the dump with the value in force."""
    text = dump_toml(Config())
    document = tomllib.loads(text)
    for name in Config.__struct_fields__:
        section = getattr(Config(), name)
        if isinstance(section, msgspec.Struct):
            assert set(document[name]) == set(section.__struct_fields__)
    for kind in KINDS.values():
        assert f'[checks."{kind.name}"]' in text
    assert "# near_celsius = 5.0" in text


def test_overrides_reach_the_engine_and_the_rest_is_the_catalogues() -> None:
    """What the operator set counts, key by key; every other number of every kind is the catalogue's."""
    settings = settings_of(parse(RICH))
    changed = settings.kinds["thermal.core_near_limit"]
    assert (changed.enabled, changed.severity, changed.hold_seconds) == (False, Severity.CRITICAL, 5.0)
    assert changed.clear_seconds == KINDS["thermal.core_near_limit"].defaults.clear_seconds
    assert changed.thresholds == {**KINDS["thermal.core_near_limit"].defaults.thresholds, "near_celsius": 7.0}
    assert settings.kinds["xid.xid_79"].latch_seconds == 60.0
    assert (settings.expected_gpus, settings.core_limit_celsius) == (8, 88.0)
    assert settings.slots == {"0000:3b:00.0": "PCIe 4"}
    assert settings_of(Config()).kinds == default_settings()


def test_keys_without_effect_in_this_version_are_named() -> None:
    """A key that is accepted and does nothing yet is said, but only where somebody set it; these all do something."""
    assert unused_keys(Config()) == ()
    text = """
    mode = "enforce"
    [poll]
    fast_seconds = 2.0
    [guards]
    stop_query = "up == 0"
    [budget]
    prometheus_url = "http://prometheus:9090"
    [ladder]
    "xid.xid_79" = ["hold"]
    """
    assert unused_keys(parse(text)) == ()


def test_notes_stand_beside_keys_that_exist() -> None:
    """How the workload's figure is found is said where its keys are shown."""
    text = dump_toml(Config())
    for path, note in NOTES.items():
        section, _, key = path.partition(".")
        assert hasattr(getattr(Config(), section), key)
        assert f'{key} = ""  # {note}\n' in text


def test_the_list_of_unused_keys_names_keys_that_exist() -> None:
    """A row of the list is a section or a key of the contract; a renamed key would fall out silently."""
    config = Config()
    for path in NOT_USED_YET:
        section, _, key = path.partition(".")
        assert hasattr(config, section), path
        assert not key or hasattr(getattr(config, section), key), path
