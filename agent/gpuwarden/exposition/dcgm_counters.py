"""A counters file of dcgm-exporter -> the families to show: `field, type, help` a line, in the file's order.

As there: `#` at the start of a line makes it a comment, blanks around a column do not count, a column with commas
stands in double quotes, and of rows with the same name the first one holds. Everything that is wrong with a file is
reported, each with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuwarden.exposition.dcgm_fields import TYPES, Counter, keys

_COLUMN = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(?:,|\Z)')
_COLUMNS = 3


class CountersError(Exception):
    """The file cannot be used. `problems` holds (line number, what is wrong) for every problem found."""

    def __init__(self, problems: tuple[tuple[int, str], ...]) -> None:
        super().__init__("; ".join(f"line {line}: {text}" for line, text in problems))
        self.problems = problems


def parse_counters(text: str) -> tuple[Counter, ...]:
    """Return the counters a file holds. Raises: CountersError with every problem at once."""
    found: dict[str, Counter] = {}
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        row = line.rstrip("\r")
        if not row or row.startswith("#"):
            continue
        read = _counter(row)
        if isinstance(read, str):
            problems.append((number, read))
        else:
            found.setdefault(read.name, read)
    if problems:
        raise CountersError(tuple(problems))
    return tuple(found.values())


def _counter(row: str) -> Counter | str:
    """Return what a row asks for, or what is wrong with it."""
    columns = list(_columns(row))
    if None in columns:
        return f"has a double quote where none can stand: {row[:80]!r}"
    if len(columns) != _COLUMNS:
        return f"has {len(columns)} columns, not {_COLUMNS} (field, type, help): {row[:80]!r}"
    name, kind, text = ((column or "").strip(" ") for column in columns)
    if name not in keys():
        return f"no such DCGM field: {name!r}"
    if kind not in TYPES:
        return f"no such type: {kind!r}; there are {', '.join(TYPES)}"
    return Counter(name=name, key=keys()[name], type=kind, help=text)


def _columns(row: str) -> Iterator[str | None]:
    """Yield the columns of a row; a None ends it where a double quote stands astray."""
    at = 0
    while at <= len(row):
        found = _COLUMN.match(row, at)
        if found is None:
            yield None
            return
        quoted, plain = found.groups()
        yield plain if quoted is None else quoted.replace('""', '"')
        if not found.group().endswith(","):
            return
        at = found.end()
