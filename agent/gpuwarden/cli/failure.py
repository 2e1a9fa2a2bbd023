"""How an error is told: one message on stderr for a person."""

from __future__ import annotations

import click

from gpuwarden.errors import ConfigError, GpuwardenError


def tell_failure(error: GpuwardenError) -> None:
    """Write what is wrong to stderr; each problem of a configuration on a line of its own."""
    from gpuwarden.model.kernel_message import printable

    if isinstance(error, ConfigError):
        count = len(error.problems)
        click.echo(f"gpuwarden: the configuration has {count} problem{'s' if count != 1 else ''}:", err=True)
        for path, text in error.problems:
            click.echo(f"  {printable(path)}: {printable(text)}", err=True)
        return
    first, *rest = str(error).splitlines() or [type(error).__name__]
    click.echo(f"gpuwarden: {printable(first)}", err=True)
    for line in rest:
        click.echo(f"  {printable(line)}", err=True)
