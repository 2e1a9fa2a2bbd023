"""Is every key of a TOML document one that exists, with a value it can take? All that is wrong, in file order.

Works from the records of `config.schema`: a new key there needs nothing here.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from msgspec import inspect

from gpuwarden.config.schema import CheckOverride, Config
from gpuwarden.model.kinds import KINDS, Kind

Problem: TypeAlias = tuple[str, str]
"""Key path, and what is wrong with it."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_OVERRIDE_KEYS = tuple(name for name in CheckOverride.__struct_fields__ if name != "thresholds")
_RUNGS = ("mitigate", "stop_workload", "reset", "reboot", "hold")
_COMMAND_RUNG = re.compile(r"command:[A-Za-z0-9][A-Za-z0-9._-]*")


def joined(path: str, key: str) -> str:
    """Return the path of a key as TOML writes it: `checks."thermal.core_near_limit".hold_seconds`."""
    quoted = key if _BARE.fullmatch(key) else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{path}.{quoted}" if path else quoted


class KeyCheck:
    """One pass over a document: `problems` found, and `accepted`, the document without what was wrong."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.problems: list[Problem] = []
        root = inspect.type_info(Config)
        assert isinstance(root, inspect.StructType)
        self.accepted: dict[str, Any] = self._section(document, root, "")

    def _section(self, table: Mapping[str, Any], section: inspect.StructType, path: str) -> dict[str, Any]:
        fields = {field.name: field.type for field in section.fields}
        kept = {}
        for key, value in table.items():
            here = joined(path, key)
            if key not in fields:
                self._add(here, "no such key" + _hint(key, fields))
            elif here in _OF_KINDS:
                kept[key] = self._by_kind(value, here)
            elif (found := self._value(value, fields[key], here)) is not _REFUSED:
                kept[key] = found
        return kept

    def _value(self, value: Any, wanted: inspect.Type, path: str) -> Any:
        """Return what is right of a value, or _REFUSED."""
        match wanted:
            case inspect.StructType() if isinstance(value, dict):
                return self._section(value, wanted, path)
            case inspect.DictType(value_type=item) if isinstance(value, dict):
                found = {key: self._value(each, item, joined(path, key)) for key, each in value.items()}
                return {key: each for key, each in found.items() if each is not _REFUSED}
            case inspect.VarTupleType(item_type=item) if isinstance(value, list):
                items = [self._value(each, item, f"{path}[{number}]") for number, each in enumerate(value)]
                return _REFUSED if _REFUSED in items else items
        if takes(value, wanted):
            return value
        self._add(path, f"must be {wording(wanted)}, not {shown(value)}")
        return _REFUSED

    # --- tables whose keys are finding kinds

    def _by_kind(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._add(path, f"must be a table, not {shown(value)}")
            return {}
        kept: dict[str, Any] = {}
        for key, each in value.items():
            here = joined(path, key)
            if (kind := KINDS.get(key)) is None:
                self._add(here, self._no_such_kind(key, each, path))
            elif path == "ladder":
                kept[key] = self._rungs(each, here)
            elif isinstance(each, dict):
                kept[key] = self._override(each, kind, here)
            else:
                self._add(here, f"must be a table, not {shown(each)}")
        return kept

    def _no_such_kind(self, key: str, value: Any, path: str) -> str:
        """Say so, and spot `[checks.thermal.core_near_limit]`, where TOML takes the dots for three tables."""
        inner = next(iter(value), "") if isinstance(value, dict) else ""
        meant = f"{key}.{inner}"
        if meant in KINDS:
            return f'no such finding kind; the name needs quotes: [{path}."{meant}"]'
        return "no such finding kind" + _hint(key, KINDS)

    def _rungs(self, value: Any, path: str) -> list[str]:
        if not isinstance(value, list) or not value:
            self._add(path, f"must be a list of rungs, not {shown(value)}")
            return []
        for number, rung in enumerate(value):
            if not isinstance(rung, str) or not (rung in _RUNGS or _COMMAND_RUNG.fullmatch(rung)):
                wanted = ", ".join(f'"{name}"' for name in _RUNGS)
                self._add(f"{path}[{number}]", f'must be one of {wanted}, "command:<name>", not {shown(rung)}')
        return [rung for rung in value if isinstance(rung, str)]

    def _override(self, table: Mapping[str, Any], kind: Kind, path: str) -> dict[str, Any]:
        """Return one kind's table with its own keys moved into `thresholds`."""
        own = kind.defaults.thresholds
        section = inspect.type_info(CheckOverride)
        assert isinstance(section, inspect.StructType)
        common = {key: value for key, value in table.items() if key in _OVERRIDE_KEYS}
        kept = self._section(common, section, path)
        thresholds = {}
        for key, value in table.items():
            here = joined(path, key)
            if key in _OVERRIDE_KEYS:
                continue
            if key not in own:
                self._add(here, f"{kind.name} has no such key" + _hint(key, (*_OVERRIDE_KEYS, *own)))
            elif (text := _threshold_problem(key, value)) is not None:
                self._add(here, text)
            else:
                thresholds[key] = float(value)
        return {**kept, "thresholds": thresholds}

    def _add(self, path: str, text: str) -> None:
        self.problems.append((path, text))


_OF_KINDS = ("checks", "ladder")
_REFUSED = object()


def _hint(key: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where something like `key` exists, else what exists, if that is little."""
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= 12 else ""


def takes(value: Any, wanted: inspect.Type) -> bool:
    """Return whether a leaf value is of the type and in the range that are wanted. A TOML integer is a number too."""
    match wanted:
        case inspect.UnionType(types=types):
            return any(takes(value, each) for each in types)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _in_range(value, wanted)
        case inspect.FloatType():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and math.isfinite(value) and _in_range(value, wanted)
        case inspect.StrType():
            return isinstance(value, str) and "\0" not in value
        case inspect.LiteralType(values=values):
            return isinstance(value, str) and value in values
        case inspect.EnumType(cls=cls):
            return isinstance(value, str) and value in [member.value for member in cls]
    return False  # a table or list is wanted, and `value` is none


def _in_range(value: float, wanted: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (wanted.ge is None or value >= wanted.ge)
        and (wanted.gt is None or value > wanted.gt)
        and (wanted.le is None or value <= wanted.le)
        and (wanted.lt is None or value < wanted.lt)
    )


def wording(wanted: inspect.Type) -> str:
    """Return what is wanted, in words that follow "must be"."""
    match wanted:
        case inspect.UnionType(types=types):
            return " or ".join(wording(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _range_wording(wanted)
        case inspect.FloatType():
            return "a number" + _range_wording(wanted)
        case inspect.StrType():
            return "a string"
        case inspect.LiteralType(values=values):
            return _one_of([str(value) for value in values])
        case inspect.EnumType(cls=cls):
            return _one_of([member.value for member in cls if isinstance(member, enum.Enum)])
        case inspect.VarTupleType(item_type=item):
            return f"a list, each entry {wording(item)}"
    return "a table"


def _one_of(names: list[str]) -> str:
    return ("one of " if len(names) > 1 else "") + ", ".join(f'"{name}"' for name in names)


def _range_wording(wanted: inspect.IntType | inspect.FloatType) -> str:
    low = f"{wanted.ge:.12g}" if wanted.ge is not None else f"above {wanted.gt:.12g}" if wanted.gt is not None else None
    high = (
        f"{wanted.le:.12g}" if wanted.le is not None else f"below {wanted.lt:.12g}" if wanted.lt is not None else None
    )
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else ""


def shown(value: Any) -> str:
    """Return a value as its author wrote it, shortened."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            return f'"{value if len(value) <= 60 else value[:57] + "..."}"'
    return str(value)[:60]


def _threshold_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with a kind's own number: its unit, the end of its name, bounds it."""
    low, high = -math.inf, math.inf
    if key.endswith("_ratio"):
        low, high = 0.0, 1.0
    elif not key.endswith("_celsius"):
        low = 0.0
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high:
        return None
    bounds = " from 0 to 1" if high == 1.0 else " of at least 0" if low == 0.0 else ""
    return f"must be a number{bounds}, not {shown(value)}"
