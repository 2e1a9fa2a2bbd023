"""`[exposition]` -> the dialects to show, with the counters file read: where the dcgm dialect does its I/O."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
from msgspec.structs import replace

from gpuwarden.config import Exposition, read_trusted
from gpuwarden.errors import ConfigError
from gpuwarden.exposition.dcgm import Dialect, without_source
from gpuwarden.exposition.dcgm_counters import CountersError, parse_counters
from gpuwarden.exposition.dcgm_fields import Counter, default_counters
from gpuwarden.exposition.render import Dialects


def dialects_of(config: Exposition, host: str) -> Dialects:
    """Return what is to be shown. Raises: ConfigError with every problem of the counters file, each with its line."""
    if not config.dcgm:
        return Dialects(native=config.native)
    dialect = Dialect(
        counters=_counters(Path(config.dcgm_counters)) if config.dcgm_counters else default_counters(),
        host=host,
        host_label=config.dcgm_host_label,
        replace_blanks=config.dcgm_replace_blanks_in_model_name,
    )
    return Dialects(native=config.native, dcgm=dialect)


def _counters(path: Path) -> tuple[Counter, ...]:
    try:
        return parse_counters(read_trusted(path, os.geteuid()))
    except CountersError as error:
        where = "exposition.dcgm_counters"
        raise ConfigError(tuple((where, f"{path} line {line}: {text}") for line, text in error.problems)) from None


class Shown:
    """The dialects in force: exchanged with the configuration, completed with what the job files say."""

    def __init__(self, host: str) -> None:
        self.dialects = Dialects()
        self._host = host
        self._jobs: dict[str, tuple[str, ...]] = {}

    def read(self, config: Exposition) -> Dialects:
        """Return what a configuration wants shown, for `put`. Raises: ConfigError."""
        wanted = dialects_of(config, self._host)
        if wanted.dcgm is not None and (names := without_source(wanted.dcgm.counters)):
            structlog.get_logger().warning("dcgm.fields_without_source", fields=list(names))
        return wanted

    def put(self, dialects: Dialects) -> None:
        """Show these dialects from now on."""
        dcgm = dialects.dcgm
        self.dialects = replace(dialects, dcgm=replace(dcgm, jobs=self._jobs) if dcgm is not None else None)

    def jobs(self, jobs: dict[str, tuple[str, ...]]) -> None:
        """Take what the job files say now."""
        self._jobs = jobs
        self.put(self.dialects)
