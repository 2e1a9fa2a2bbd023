"""`gpuwarden config check|show`: is a configuration right, and what is in force."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from gpuwarden.cli.options import config_option, format_option
from gpuwarden.cli.output import print_json
from gpuwarden.config import DEFAULT_PATH, dump_toml, load, unused_keys
from gpuwarden.errors import ConfigError
from gpuwarden.exposition.dcgm_config import dialects_of


@click.group(short_help="Check and show the configuration.")
def config() -> None:
    """Check and show the configuration.

    \b
    Examples:
      gpuwarden config check new.toml && sudo cp new.toml /etc/gpuwarden/config.toml
      gpuwarden config show > everything.toml
    """


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@format_option()
def check(file: Path | None, output_format: str) -> None:
    """Say everything that is wrong with FILE at once, each with its key; exit 78 if anything is.

    Without FILE, the one that the daemon would read. Keys that this version accepts without using them are named too.
    """
    try:
        found = load(file, os.environ)
        dialects_of(found.exposition, host="")
    except ConfigError as error:
        if output_format != "json":
            raise
        print_json({"ok": False, "problems": [{"key": key, "problem": text} for key, text in error.problems]})
        raise click.exceptions.Exit(error.exit_code) from error
    unused = unused_keys(found)
    if output_format == "json":
        print_json({"ok": True, "problems": [], "unused": unused})
        return
    for key in unused:
        click.echo(f"{key}: accepted, but this version does not use it yet")
    click.echo(f"{_name(file)}: ok")


@config.command()
@config_option
@format_option("toml", "json")
def show(config_path: Path | None, output_format: str) -> None:
    """Print the configuration in force, with every default: TOML that reads back as the same configuration."""
    found = load(config_path, os.environ)
    if output_format == "json":
        print_json(msgspec.to_builtins(found))
    else:
        click.echo(dump_toml(found), nl=False)


def _name(file: Path | None) -> str:
    named = file or os.environ.get("GPUWARDEN_CONFIG")
    return str(named or (DEFAULT_PATH if DEFAULT_PATH.exists() else "the defaults (there is no file)"))
