"""Config -> TOML: the effective configuration, every key with its value, as `config show` prints it."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import msgspec

from gpuwarden.config.keys import joined
from gpuwarden.config.schema import NOT_USED_YET, NOTES, CheckOverride, Config
from gpuwarden.model.kinds import KINDS, Kind

_COMMON = tuple(name for name in CheckOverride.__struct_fields__ if name != "thresholds")
_BY_KIND = ("checks", "ladder")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def dump_toml(config: Config) -> str:
    """Return `config` as TOML that reads back as the same Config.

    What the catalogue of kinds decides stands there as a comment, so that its values are not taken for choices.
    """
    lines = [*_scalars(config, "")]
    for name in config.__struct_fields__:
        section = getattr(config, name)
        if isinstance(section, msgspec.Struct):
            lines += ["", f"[{name}]{_mark(name)}", *_scalars(section, name)]
    for kind in KINDS.values():
        lines += ["", *_check(kind, config.checks.get(kind.name))]
    lines += ["", f"[ladder]{_mark('ladder')}"]
    lines += [f"{joined('', kind)} = {_value(list(rungs))}" for kind, rungs in config.ladder.items()]
    return "\n".join(lines) + "\n"


def unused_keys(config: Config) -> tuple[str, ...]:
    """Return the keys that are set to something else than their default and have no effect in this version."""
    default = Config()
    found = []
    for path in NOT_USED_YET:
        section, _, key = path.partition(".")
        ours, theirs = getattr(config, section), getattr(default, section)
        if key:
            if getattr(ours, key) != getattr(theirs, key):
                found.append(path)
        elif isinstance(ours, msgspec.Struct):
            names = ours.__struct_fields__
            found += [f"{path}.{name}" for name in names if getattr(ours, name) != getattr(theirs, name)]
        elif ours != theirs:
            found += [joined(path, name) for name in ours] if isinstance(ours, dict) else [path]
    return tuple(found)


def _mark(path: str) -> str:
    note = "not used by this version" if path in NOT_USED_YET else NOTES.get(path, "")
    return f"  # {note}" if note else ""


def _scalars(section: msgspec.Struct, path: str) -> Iterator[str]:
    """Yield the lines of one table; nested tables of plain values stand inline."""
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct) or (not path and name in _BY_KIND):
            continue
        yield f"{name} = {_value(value)}{_mark(f'{path}.{name}' if path else name)}"


def _check(kind: Kind, override: CheckOverride | None) -> Iterator[str]:
    """Yield one kind's table: what the operator set, and as comments what the catalogue says."""
    prefix = "# " if override is None else ""
    yield f"{prefix}[{joined('checks', kind.name)}]"
    chosen = override or CheckOverride()
    for name in _COMMON:
        ours, theirs = getattr(chosen, name), getattr(kind.defaults, name)
        if override is not None and (name == "enabled" or ours is not None):
            yield f"{name} = {_value(ours)}"
        elif theirs is not None:
            yield f"# {name} = {_value(theirs)}"
    for name, default in kind.defaults.thresholds.items():
        if name in chosen.thresholds:
            yield f"{joined('', name)} = {_value(chosen.thresholds[name])}"
        else:
            yield f"# {joined('', name)} = {_value(default)}"


def _value(value: Any) -> str:
    match value:
        case enum.Enum():
            return _value(value.value)
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_character(each) for each in value) + '"'
        case dict():
            entries = ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items())
            return f"{{ {entries} }}" if entries else "{}"
        case list() | tuple():
            return "[" + ", ".join(_value(each) for each in value) + "]"
    return repr(value)


def _key(key: str) -> str:
    bare = joined("", key)
    return bare if not bare.startswith('"') else _value(key)


def _character(each: str) -> str:
    if each in _ESCAPES:
        return _ESCAPES[each]
    return f"\\u{ord(each):04X}" if ord(each) < 0x20 or ord(each) == 0x7F else each
