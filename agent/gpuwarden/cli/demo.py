"""`gpuwarden demo`: the whole of it, on a simulated node, in about a minute."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from gpuwarden import log
from gpuwarden.cli.client import SOCKET_NAME, Daemon
from gpuwarden.cli.options import Duration, format_option
from gpuwarden.config import Config
from gpuwarden.daemon import RunOptions, serve
from gpuwarden.demo import Story, Verdict
from gpuwarden.errors import GpuwardenError
from gpuwarden.sim.client import status as sim_status
from gpuwarden.sim.scenario import Scenario, load

_USUAL_PORT = 9878
_LOOK_SECONDS = 0.25
_EVENTS = 1000


@click.command(short_help="A simulated rig lives through a bad hour in about a minute.")
@click.option(
    "--for", "for_seconds", type=Duration(1.0), metavar="T", help="End after so long, e.g. 75s, also on a terminal."
)
@click.option("--scenario", "spec", default="bad-hour", show_default=True, help="Another scenario, by name or file.")
@format_option("text", "json")
def demo(for_seconds: float | None, spec: str, output_format: str) -> None:
    """Watch gpuwarden work: no GPU, no root, no configuration.

    A simulated node goes through a script of faults; what the script does and what the agent makes of it are printed
    side by side, and the page, metrics and API are served meanwhile. On a terminal it goes on serving until Ctrl-C.
    Exit 0 when everything in the script was seen, 1 otherwise.
    """
    log.configure("error", "auto")
    scenario = load(spec)
    ends = for_seconds is not None or not sys.stdout.isatty()
    directory = Path(tempfile.mkdtemp(prefix="gpuwarden-demo-"))
    config = Config(state_dir=str(directory / "state"), runtime_dir=str(directory / "run"))
    config = replace(config, web=replace(config.web, listen=(f"127.0.0.1:{_free_port()}",)))
    telling = _Telling(scenario, directory / "run", for_seconds or scenario.seconds, ends=ends)
    telling.as_json = output_format == "json"
    try:
        serve(config, RunOptions(sim=spec), telling.begin)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.flush()
    os._exit(0 if telling.is_good else 1)


class _Telling:
    """A thread beside the daemon that asks it what happened, as any client would, and prints it."""

    def __init__(self, scenario: Scenario, runtime_dir: Path, seconds: float, *, ends: bool) -> None:
        self._scenario = scenario
        self._daemon = Daemon((runtime_dir / SOCKET_NAME,))
        self._sim = runtime_dir / "sim" / "sim.sock"
        self._seconds = seconds
        self._ends = ends
        self._story = Story(scenario)
        self.is_good = False
        self.as_json = False

    def begin(self, urls: tuple[str, ...]) -> None:
        """Say where to look, and start telling; with json on stderr, so that stdout has one object a line."""
        title = self._scenario.title or self._scenario.name
        click.echo(f"gpuwarden demo: {title} ({self._scenario.product})", err=self.as_json)
        for url in urls:
            click.echo(f"  page     {url}/\n  metrics  {url}/metrics\n", err=self.as_json)
        threading.Thread(target=self._tell, name="story", daemon=True).start()

    def _tell(self) -> None:
        try:
            while True:
                seconds = float(sim_status(self._sim)["seconds"])
                for line in self._story.lines(seconds, self._events()):
                    click.echo(msgspec.json.encode(line) if self.as_json else str(line))
                if seconds >= self._seconds:
                    break
                time.sleep(_LOOK_SECONDS)
        except (OSError, GpuwardenError) as error:
            click.echo(f"the story ends early: {error}", err=True)
        self._conclude()

    def _events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._daemon.get("events", limit=_EVENTS)
        return found

    def _conclude(self) -> None:
        self.is_good = self._story.is_good
        verdict = self._story.verdict()
        click.echo(msgspec.json.encode(verdict) if self.as_json else _in_words(verdict))
        if self._ends:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            click.echo("still serving; Ctrl-C ends it", err=self.as_json)


def _in_words(verdict: Verdict) -> str:
    lines = [f"\n{verdict.seen} of {verdict.expected} expected things seen"]
    lines += [f"not seen: {each}" for each in verdict.not_seen]
    lines += [f"not in the script: {each}" for each in verdict.not_in_the_script]
    return "\n".join(lines)


def _free_port() -> int:
    """Return the usual port, or any other where that one is taken."""
    for port in (_USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0
