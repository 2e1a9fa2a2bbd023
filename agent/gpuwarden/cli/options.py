"""Options and argument types that several commands share: --config, --format, durations and moments."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    _ToSeconds = click.ParamType[float]
else:
    _ToSeconds = click.ParamType  # older releases of click do not take its type in brackets

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def seconds_of(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `1h30m`, `2d` or `1w`. Raises: ValueError for anything else."""
    plain = text.strip().lower()
    parts = _PART.findall(plain)
    if parts and "".join(number + unit for number, unit in parts) == plain:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if (value := _finite(plain)) < 0:
        raise ValueError(f"{text!r} is no duration")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} has no end")
    return value


class Duration(_ToSeconds):
    """A length of time; converts to seconds."""

    name = "duration"

    def __init__(self, low: float = 0.0, high: float = math.inf) -> None:
        self._low = low
        self._high = high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        try:
            seconds = seconds_of(value)
        except ValueError:
            self.fail(f"{value!r} is no duration: write 30s, 15m, 2h, 3d, 1w or 1h30m", param, ctx)
        if not self._low <= seconds <= self._high:
            self.fail(f"{value!r} is out of range: from {spell(self._low)} to {spell(self._high)}", param, ctx)
        return seconds


class Moment(_ToSeconds):
    """A point in time; converts to Unix seconds."""

    name = "time"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return Unix seconds: of an ISO 8601 time (local where it names no zone), or of so long ago."""
        if isinstance(value, float):
            return value
        try:
            return max(0.0, self._clock() - seconds_of(value))
        except ValueError:
            pass
        try:
            if value.startswith("@"):
                return max(0.0, _finite(value[1:]))
            return max(0.0, datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: write 15m or 2d (ago), 2026-03-01, 2026-03-01T14:30, or @ and Unix seconds",
                param,
                ctx,
            )


def spell(seconds: float) -> str:
    """Return a length of time in at most two units: `45s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    if not math.isfinite(seconds):
        return "any"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{seconds:.1f}s" if 0 < seconds < 10 and seconds != whole else f"{whole}s"
    steps = ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
    size, unit, next_size, next_unit = next(step for step in steps if whole >= step[0])
    rest = whole % size // next_size
    return f"{whole // size}{unit} {rest}{next_unit}" if rest else f"{whole // size}{unit}"


def config_option(command: _Command) -> _Command:
    """Add `--config FILE`; the command gets `config_path`."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Configuration file. Default: $GPUWARDEN_CONFIG, then /etc/gpuwarden/config.toml where it exists.",
    )(command)


def format_option(*names: str) -> Callable[[_Command], _Command]:
    """Add `--format`; the first name is the default."""
    chosen = names or ("table", "json")
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(chosen),
        default=chosen[0],
        show_default=True,
        help="json is for programs: stable names, base units, times in Unix seconds.",
    )
