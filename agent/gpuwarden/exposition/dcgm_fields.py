"""The names of dcgm-exporter's world: which there are, what field each means, what the default set holds.

Sources: data/dcgm_fields.csv (fields that dashboards and alerts use, with type, unit and help) and
data/dcgm_aliases.csv (every name of every DCGM release, by field id). Both are read on first use.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TypeAlias

import msgspec

_DATA = Path(__file__).with_name("data")

Key: TypeAlias = int | str
"""A DCGM field id; the name itself for the exporter's own DCGM_EXP_* families, which have none."""

TYPES = ("gauge", "counter", "histogram", "summary", "label")


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field that is in use somewhere. `default` and `obtainable` are the table's own words."""

    name: str
    key: Key
    type: str
    unit: str
    help: str
    default: str
    source: str
    conversion: str
    where: str
    obtainable: str
    value_format: str  # int, float, label
    used_by: str


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a counters file: what is printed under `name` is the field `key`."""

    name: str
    key: Key
    type: str
    help: str


@cache
def fields() -> dict[str, Field]:
    """Return the fields in use, by name, in the table's order."""
    return {row["prom_name"]: _field(row) for row in _rows("dcgm_fields.csv")}


def _field(row: dict[str, str]) -> Field:
    return Field(
        name=row["prom_name"],
        key=int(row["dcgm_field_id"]) if row["dcgm_field_id"] else row["prom_name"],
        type=row["type"].replace(",", " ").split()[0],
        unit=row["unit"],
        help=row["help"],
        default=row["default_enabled"],
        source=row["nvml_source"],
        conversion=row["conversion"],
        where=row["available_on"],
        obtainable=row["obtainable_without_dcgm"],
        value_format=row["value_format"],
        used_by=row["used_by"],
    )


@cache
def keys() -> dict[str, Key]:
    """Return what every name means that a counters file may hold: canonical, old, lower-case and DCGM_EXP_* names."""
    names: dict[str, Key] = {row["name"]: int(row["field_id"]) for row in _rows("dcgm_aliases.csv")}
    return names | {field.name: field.key for field in fields().values()}


@cache
def default_counters() -> tuple[Counter, ...]:
    """Return the set that dcgm-exporter ships with switched on, in the table's order."""
    return tuple(
        Counter(name=field.name, key=field.key, type=field.type, help=help_of(field))
        for field in fields().values()
        if field.default.startswith("yes")
    )


_NAMED_UNITS = frozenset({"MHz", "C", "W", "mJ", "%", "MiB", "B/s"})


def help_of(field: Field) -> str:
    """Return the help text of a field of the default set, with its unit."""
    return f"{field.help} (in {field.unit})." if field.unit in _NAMED_UNITS else f"{field.help}."


def _rows(name: str) -> list[dict[str, str]]:
    with (_DATA / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
