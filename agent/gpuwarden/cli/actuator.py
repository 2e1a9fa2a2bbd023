"""`gpuwarden actuator`: the privileged half."""

from __future__ import annotations

import os
from pathlib import Path

import click
import structlog

from gpuwarden import log
from gpuwarden.actuators.process import IDLE_SECONDS, place_of, run_actuator
from gpuwarden.actuators.site import Site
from gpuwarden.config import Config, load
from gpuwarden.errors import ConfigError
from gpuwarden.sd import listening_sockets


@click.command(short_help="The privileged half: brings about what the daemon decides.")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), envvar="GPUWARDEN_CONFIG", help="Configuration file."
)
@click.option("--exit-when-idle", is_flag=True, help="End after a minute with nothing to do, as with a systemd socket.")
@click.option("--log.format", "log_format", type=click.Choice(["auto", "logfmt", "json"]), default="auto")
@click.option("--log.level", "log_level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def actuator(config_path: Path | None, exit_when_idle: bool, log_format: log.Format, log_level: str) -> None:
    """Serve effects on [actuator] socket, or on the socket that systemd hands over.

    It runs as root, started by gpuwarden-actuator.socket when the daemon first asks, and answers root and [actuator]
    user alone. What it may do is in its own reading of the configuration, made anew before each effect; every effect is
    done at most once.

    \b
      systemctl enable --now gpuwarden-actuator.socket    as a service, started on demand
      sudo gpuwarden actuator                             by hand, until Ctrl-C
    """
    log.configure(log_level, log_format)
    handed = listening_sockets(os.environ)
    try:
        config = load(config_path, os.environ)
    except ConfigError as error:
        if not handed:
            raise
        structlog.get_logger().error("config.refused", problems=[f"{path}: {text}" for path, text in error.problems])
        config = Config()  # it answers with what is wrong, where ending would have systemd give the socket up
    run_actuator(
        Site(config=config, place=place_of(config, os.geteuid())),
        reread=lambda: load(config_path, os.environ),
        listening=handed[0] if handed else None,
        idle_seconds=IDLE_SECONDS if handed or exit_when_idle else None,
    )
    os._exit(0)  # a thread that sits in a read on a dead device must not keep the process
