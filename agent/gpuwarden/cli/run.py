"""`gpuwarden run`: the daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from msgspec.structs import replace

from gpuwarden import log
from gpuwarden.config import load
from gpuwarden.daemon import RunOptions, serve


@click.command(short_help="Run the daemon: watch the GPUs and serve metrics.")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), envvar="GPUWARDEN_CONFIG", help="Configuration file."
)
@click.option("--sim", metavar="SPEC", help="Put a simulated node under it: rtx4090x8, h100x8, or a scenario file.")
@click.option("--sim-speed", default=1.0, show_default=True, hidden=True, help="Simulated seconds per second.")
@click.option(
    "--kmsg",
    "kmsg_path",
    type=click.Path(path_type=Path),
    help="Read kernel messages from here instead of /dev/kmsg: a device, a FIFO or a file of raw records.",
)
@click.option(
    "--web.listen-address", "listen", multiple=True, metavar="ADDR", help="Where to serve, e.g. :9878. Repeatable."
)
@click.option("--web.config.file", "web_config", help="TLS and users, in the Prometheus exporter-toolkit format.")
@click.option("--log.format", "log_format", type=click.Choice(["auto", "logfmt", "json"]), default="auto")
@click.option("--log.level", "log_level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def run(  # noqa: PLR0917 - click hands each option in by name
    config_path: Path | None,
    sim: str | None,
    sim_speed: float,
    kmsg_path: Path | None,
    listen: tuple[str, ...],
    web_config: str | None,
    log_format: log.Format,
    log_level: str,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C.

    It needs no root and no configuration. What it cannot see it says at the start, and how to allow it. Metrics are at
    http://HOST:9878/metrics, a page for people at /.

    \b
      gpuwarden run                       watch this host
      gpuwarden run --sim h100x8          watch a made-up node with eight H100
      gpuwarden run --web.listen-address 127.0.0.1:9878
    """
    log.configure(log_level, log_format)
    config = load(config_path, os.environ)
    web = config.web
    if listen:
        web = replace(web, listen=listen)
    if web_config is not None:
        web = replace(web, config_file=web_config)
    code = serve(
        replace(config, web=web),
        RunOptions(sim=sim, sim_speed=sim_speed, kmsg=kmsg_path, config_path=config_path),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that sits in a call on a dead disk or driver must not keep the process
