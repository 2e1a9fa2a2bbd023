"""The command line: `gpuwarden COMMAND`. One file per command; each is imported only when it is called.

`gpuwarden --version`, `--help` and `kmsg` load neither aiohttp nor NVML: they start in a fraction of a second.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from gpuwarden.cli.failure import tell_failure
from gpuwarden.errors import GpuwardenError

COMMANDS: dict[str, tuple[str, str]] = {  # name -> (module:attribute, what the overview says)
    "run": ("gpuwarden.cli.run:run", "The daemon: watch this host, or a simulated one."),
    "demo": ("gpuwarden.cli.demo:demo", "A simulated rig lives through a bad hour in about a minute."),
    "check": ("gpuwarden.cli.check:check", "One look at this host; the verdict is the exit code."),
    "status": ("gpuwarden.cli.status:status", "What the daemon knows now."),
    "events": ("gpuwarden.cli.events:events", "What happened on this host."),
    "explain": ("gpuwarden.cli.explain:explain", "What an Xid, an SXid, a finding or a case means."),
    "kmsg": ("gpuwarden.cli.kmsg:kmsg", "What a kernel log says about GPUs."),
    "inject": ("gpuwarden.cli.inject:inject", "A fault for practice, marked as a drill everywhere."),
    "simulate": ("gpuwarden.cli.simulate:simulate", "A scenario on virtual time."),
    "capture": ("gpuwarden.cli.capture:capture", "Record what the daemon observes."),
    "replay": ("gpuwarden.cli.replay:replay", "Put a recording through the engine again."),
    "hold": ("gpuwarden.cli.requests:hold", "Touch a GPU no more, until it is released."),
    "release": ("gpuwarden.cli.requests:release", "Let a held GPU go."),
    "pause": ("gpuwarden.cli.requests:pause", "Act no more, for a while or until resumed."),
    "resume": ("gpuwarden.cli.requests:resume", "End a pause."),
    "approve": ("gpuwarden.cli.requests:approve", "Let a case climb its present rung."),
    "cancel": ("gpuwarden.cli.requests:cancel", "End a case; nothing more is done for it."),
    "forget": ("gpuwarden.cli.forget:forget", "A GPU left for good: drop it from the inventory."),
    "actuator": ("gpuwarden.cli.actuator:actuator", "The privileged half: brings about what the daemon decides."),
    "restore": ("gpuwarden.cli.restore:restore", "Give back settings of cards that the heat governor changed."),
    "config": ("gpuwarden.cli.config:config", "Check and show the configuration."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are called, and whose errors are ours to word."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the overview from the table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what this package raises on purpose becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except GpuwardenError as error:
            tell_failure(error)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gpuwarden", prog_name="gpuwarden")
def main() -> None:
    """The health agent of one GPU host.

    \b
    Try:
      gpuwarden demo                      no GPU, no root, no configuration needed
      gpuwarden check                     one look at this host
      dmesg | gpuwarden kmsg              what the kernel log says about GPUs
      gpuwarden explain xid 79            what an Xid means and what is done about it
      gpuwarden COMMAND --help            everything about one command
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no text is worth a crash on a terminal that cannot show it
