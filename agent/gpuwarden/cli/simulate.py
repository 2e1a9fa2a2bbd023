"""`gpuwarden simulate SCENARIO`: a scenario on virtual time through the same engine, and what it expects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from gpuwarden.cli.options import config_option, format_option
from gpuwarden.cli.output import evidence_text, print_json, print_table, progress, table
from gpuwarden.config import load, settings_of
from gpuwarden.sim import scenario as scenarios
from gpuwarden.sim.judge import Line, Outcome, Row, judge
from gpuwarden.sim.scenario import Scenario


@click.command(short_help="A scenario on virtual time.")
@click.argument("scenario", required=False)
@click.option("--list", "listed", is_flag=True, help="Show the built-in scenarios.")
@config_option
@format_option("text", "json")
def simulate(scenario: str | None, listed: bool, config_path: Path | None, output_format: str) -> None:
    """Let SCENARIO happen to a made-up node, on virtual time, and print what gpuwarden makes of it.

    SCENARIO is a built-in name, a TOML file, or a product and count such as rtx4090x8 (then nothing happens). Driver
    table, checks and incidents are those of the daemon. Exit 0 when everything came that the scenario expects and,
    unless it says otherwise, nothing else; 1 when not. Configured as the scenario says, or as --config does.

    \b
    Examples:
      gpuwarden simulate --list
      gpuwarden simulate fallen-off
      gpuwarden simulate my-rig.toml --config /etc/gpuwarden/config.toml
    """
    if listed:
        _list(output_format)
        return
    if scenario is None:
        raise click.UsageError("which SCENARIO? `gpuwarden simulate --list` shows the built-in ones.")
    found = scenarios.load(scenario)
    config = load(config_path, os.environ) if config_path is not None else scenarios.config_of(found)
    with progress(f"simulating {found.seconds:g} s"):
        outcome = judge(found, settings_of(config))
    if output_format == "json":
        print_json(_fields(found, outcome))
    else:
        for line in _report(found, outcome):
            click.echo(line)
    raise click.exceptions.Exit(0 if outcome.ok else 1)


def _fields(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    rows = [{**msgspec.to_builtins(row.expect), "came_after_seconds": row.came_after_seconds} for row in outcome.rows]
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "product": scenario.product,
        "seconds": scenario.seconds,
        "ok": outcome.ok,
        "log": outcome.log,
        "expected": rows,
        "unexpected": outcome.unexpected,
    }


def _report(scenario: Scenario, outcome: Outcome) -> Iterator[str]:
    """Yield the case log, then each expectation and how it came out, then the verdict."""
    title = f": {scenario.title}" if scenario.title else ""
    yield f"{scenario.name}{title} ({scenario.product}, {scenario.seconds:g} s)"
    yield ""
    for line in outcome.log:
        yield f"{_logged(line)}  {evidence_text(line.evidence)}".rstrip()
    if not outcome.log:
        yield "nothing was found"
    yield ""
    for row in outcome.rows:
        yield _expected(row)
    for line in outcome.unexpected:
        yield f"NOT EXPECTED  {_logged(line).strip()}"
    seen = sum(row.came_after_seconds is not None for row in outcome.rows)
    verdict = "as expected" if outcome.ok else "NOT as expected"
    yield f"{verdict}: {seen} of {len(outcome.rows)} expected things seen, {len(outcome.unexpected)} others"


def _logged(line: Line) -> str:
    where = "host" if line.gpu is None else f"gpu{line.gpu}"
    return f"{line.seconds:8.1f}s  {line.kind:<8}  {line.severity:<8}  {line.state:<10}  {where:<5}  {line.incident}"


def _expected(row: Row) -> str:
    expect = row.expect
    what = expect.incident or (
        f"case {expect.case}"
        if expect.case
        else f"{expect.action} {expect.outcome}"
        if expect.action
        else f"kernel line with {expect.kernel!r}"
    )
    where = "" if row.expect.gpu is None else f" of gpu{row.expect.gpu}"
    came = "NOT SEEN" if row.came_after_seconds is None else f"seen after {row.came_after_seconds:g} s"
    return f"{came}: {what}{where} within {row.expect.within_seconds:g} s"


def _list(output_format: str) -> None:
    found = [scenarios.load(name) for name in scenarios.builtin()]
    if output_format == "json":
        print_json([{"scenario": each.name, "title": each.title, "product": each.product} for each in found])
        return
    made = table("SCENARIO", "PRODUCT", "SECONDS", "WHAT HAPPENS", right=("SECONDS",))
    for each in found:
        made.add_row(each.name, each.product, f"{each.seconds:g}", each.title)
    print_table(made)
