"""`gpuwarden restore`: settings of cards given back, with or without a daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import click

from gpuwarden.actuators.leaselink import give_back
from gpuwarden.actuators.places import lease_directories
from gpuwarden.actuators.restore import give_back_alone
from gpuwarden.cli.options import config_option
from gpuwarden.config import load
from gpuwarden.model.heat import Lease


@click.command(short_help="Give back settings of cards that the heat governor changed.")
@click.option(
    "--all", "everything", is_flag=True, help="Power limits and clock locks too, not only what is unsafe to keep."
)
@config_option
def restore(config_path: Path | None, everything: bool) -> None:
    """Give back the settings that the heat governor has on loan: fans at a fixed speed, with --all every one.

    Needs no daemon. A setting that is no longer as gpuwarden set it is left alone. Exit 1 where one could not be given
    back. A daemon that still runs with the governor on may take them again: stop it first.

    \b
    Examples:
      gpuwarden restore                   fans back to the driver (ExecStopPost= of the unit)
      gpuwarden restore --all             power limits and clocks too
    """
    config = load(config_path, os.environ)
    kept = asyncio.run(_given_back(lease_directories(config), everything=everything))
    for lease in kept:
        click.echo(
            f"not given back: {lease.setting.value} of {lease.uuid} ({lease.bdf}), set to {lease.value:g}", err=True
        )
    if kept:
        raise SystemExit(1)
    click.echo("given back" if everything else "fans given back")


async def _given_back(directories: Iterable[Path], *, everything: bool) -> tuple[Lease, ...]:
    """Ask whoever holds them; where nobody does, go by the ledger. Return what could not be given back."""
    kept: list[Lease] = []
    for directory in directories:
        answered = await give_back(directory, everything=everything)
        kept += await give_back_alone(directory, everything=everything) if answered is None else answered
    return tuple(kept)
