"""`gpuwarden explain`: what an Xid, an SXid, a finding or a case means, what is done about it, and who says so."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import click
import msgspec

from gpuwarden.cli.client import reach
from gpuwarden.cli.options import config_option, format_option, spell
from gpuwarden.cli.output import print_json, print_table, table
from gpuwarden.errors import DaemonUnreachableError, InputError
from gpuwarden.model.gpu import RECOVERY_ACTIONS
from gpuwarden.model.kernel_advice import tell
from gpuwarden.model.kernel_message import ParsedLine
from gpuwarden.model.kinds import KINDS, Kind
from gpuwarden.model.nvlink4 import NVLINK4_BITS, NVLINK4_XID
from gpuwarden.model.nvlink5 import NVLINK5_XIDS, rules_of
from gpuwarden.model.observation import LineKind
from gpuwarden.model.severity import EventClass
from gpuwarden.model.xid import SXIDS, XIDS, Fatal, describe_sxid, explain_xid, finding_of
from gpuwarden.model.xid_line import RECOVERY_CHANGED, advice_of, read_line
from gpuwarden.policy.ladder import ladder

_ENDS = {
    EventClass.APPLICATION: "when it has not come again for {latch}",
    EventClass.RESET: "when this GPU was reset, the driver reloaded or the host rebooted, by whomever",
    EventClass.RECOVERY: "when the driver takes its verdict back (recovery action none)",
}
_SXID_FINDINGS = {
    Fatal.YES: ("xid.sxid_fatal",),
    Fatal.NO: ("xid.sxid_nonfatal",),
    Fatal.DEPENDS: ("xid.sxid_nonfatal", "xid.sxid_fatal"),
}
RUNBOOKS = "https://github.com/gpuwarden/gpuwarden/blob/main/docs/runbooks/"
"""Where the pages are that the alerts link to."""

_DECODED_BY = {
    NVLINK4_XID: "registers are numbered as they are printed",
    RECOVERY_CHANGED: "by the value after `to`, whatever its label",
    **dict.fromkeys(
        NVLINK5_XIDS, "reason: bits 25:20 of the first word; sub-code: bits 6:0 from driver 575 on, 9:0 before"
    ),
}
_FATAL = {Fatal.YES: "yes: the GPU cannot go on", Fatal.NO: "no", Fatal.DEPENDS: "depends on what stands beside it"}


@click.group(short_help="What an Xid, an SXid, a finding or a case means.")
def explain() -> None:
    """Say what something means, what is done about it, and where that comes from.

    \b
    Examples:
      gpuwarden explain xid 79
      gpuwarden explain xid                       every Xid that is known
      gpuwarden explain sxid 20034
      gpuwarden explain finding thermal.core_near_limit
      gpuwarden explain finding                   every kind of finding
    """


@explain.command()
@click.argument("code", required=False, type=click.IntRange(0, 999_999_999))
@format_option()
def xid(code: int | None, output_format: str) -> None:
    """Explain an Xid (the driver's error number in the kernel log); without CODE, list them all."""
    if code is None:
        _print_catalogue([_xid_row(each) for each in sorted(XIDS)], output_format)
        return
    found = explain_xid(code)
    told = tell(ParsedLine(kind=LineKind.XID, code=code, text=""))
    decode = _decode(code)
    if output_format == "json":
        finding = _finding_fields(KINDS[found.finding.kind]) if found.finding else None
        row = msgspec.to_builtins(found.xid)
        print_json({**row, "advice": told.advice, "bucket": found.bucket, "finding": finding, "decode": decode})
        return
    row = found.xid
    lines = [
        ("means", row.summary),
        ("advice", told.advice),
        ("category", row.category),
        ("fatal", _FATAL[row.fatal]),
        ("severity", row.severity.value),
        ("on", row.gpu_generations or ("all generations" if row.known else "")),
        ("vendor says", _vendor(found.bucket.immediate, found.bucket.investigatory)),
        ("with Xid 154", f"from driver {found.bucket.xid154_from} on" if found.bucket.xid154_from else ""),
    ]
    if found.finding is None:
        lines.append(("gpuwarden", "counts it (gpuwarden_gpu_xid_errors_total), and opens no finding for it"))
    else:
        lines += [
            ("gpuwarden", f"counts it and opens {found.finding.kind} ({found.finding.severity.value})"),
            ("why", found.finding.why),
            ("ends", _ends(KINDS[found.finding.kind])),
        ]
    _print_lines(f"Xid {code}  {row.mnemonic}", [*lines, ("source", row.source)])
    if decode:
        click.echo(f"\n  By the words of its line ({_DECODED_BY[code]}):\n")
        _print_catalogue(decode, output_format)


def _decode(code: int) -> list[dict[str, Any]]:
    """Return what the words of a line of this Xid can say; nothing for one that has none."""
    if code == RECOVERY_CHANGED:
        return [
            {"target": f"{value:#x}", "action": name, "advice": read_line(code, {"recovery_to": str(value)}).advice}
            for value, name in RECOVERY_ACTIONS.items()
        ]
    if code == NVLINK4_XID:
        return [
            {"register": register, "bits": " ".join(map(str, bits)), "points_at": cause.value.replace("_", " ")}
            for (register, bits), cause in NVLINK4_BITS.items()
        ]
    return [
        {
            "unit": rule.units[-1],
            "reason": f"{rule.link_down_reason:#04x}" if rule.about_link_down else None,
            "status": f"{rule.error_status:#x}",
            "advice": advice_of(rule),
        }
        for rule in rules_of(code)
    ]


@explain.command()
@click.argument("code", required=False, type=click.IntRange(0, 999_999_999))
@format_option()
def sxid(code: int | None, output_format: str) -> None:
    """Explain an SXid (an NVSwitch's error number in the kernel log); without CODE, list them all."""
    if code is None:
        _print_catalogue([_sxid_row(each) for each in sorted(SXIDS)], output_format)
        return
    row = describe_sxid(code)
    told = tell(ParsedLine(kind=LineKind.SXID, code=code, text=""))
    kinds = _SXID_FINDINGS[row.fatal]
    if output_format == "json":
        print_json({**msgspec.to_builtins(row), "advice": told.advice, "findings": kinds})
        return
    _print_lines(
        f"SXid {code}  {row.mnemonic}",
        [
            ("means", row.summary),
            ("advice", told.advice),
            ("category", row.category),
            ("fatal", row.fatal.value + "; where the line itself says fatal or not, its word counts"),
            ("severity", row.severity.value),
            ("class", f"{row.fm_class.replace('_', ' ')} (Fabric Manager guide)" if row.fm_class else ""),
            ("gpuwarden", f"counts it (gpuwarden_sxid_errors_total) and opens {' or '.join(kinds)}"),
            ("source", row.source),
        ],
    )


@explain.command()
@click.argument("kind", required=False)
@format_option()
def finding(kind: str | None, output_format: str) -> None:
    """Explain a kind of finding, with its defaults and how to change them; without KIND, list them all."""
    if kind is None:
        rows = [_finding_fields(each) for each in KINDS.values()]
        _print_catalogue([{name: row[name] for name in ("kind", "severity", "title")} for row in rows], output_format)
        return
    found = _kind_named(kind)
    if output_format == "json":
        print_json(_finding_fields(found))
        return
    defaults = found.defaults
    lines = [
        ("means", found.meaning),
        ("severity", defaults.severity.value),
        ("opens", f"after it has held for {spell(defaults.hold_seconds)}" if defaults.hold_seconds else "at once"),
        ("ends", _ends(found)),
        *(("threshold", f"{name} = {value:g}") for name, value in defaults.thresholds.items()),
        ("done about it", done_about(found.name)),
        ("source", found.source),
        ("runbook", f"{RUNBOOKS}{found.name}.md"),
        ("to change", f'[checks."{found.name}"] in the configuration; `gpuwarden config show` prints what is in force'),
    ]
    _print_lines(f"{found.name}  {found.title}", lines)


@explain.command()
@click.argument("case_id", metavar="ID")
@config_option
@format_option()
def case(case_id: str, config_path: Path | None, output_format: str) -> None:
    """Explain a case or an incident: everything that happened under ID, in order, with the evidence for it.

    An incident's ID is in its events (`gpuwarden events --kind incident`) and in `gpuwarden status --format json`.
    """
    from gpuwarden.cli.events import from_journal, line_of

    config, daemon = reach(config_path)
    try:
        every = daemon.get("events", limit=10_000)
    except DaemonUnreachableError as error:
        every = from_journal(Path(config.state_dir), error, kind=None, since=None, limit=10_000)
    found = [each for each in every if _belongs(each, case_id)]
    if not found:
        raise InputError(
            f"nothing is known of {case_id!r}\n`gpuwarden events --kind incident` shows what there is, with its ID."
        )
    if output_format == "json":
        print_json(found)
        return
    for each in found:
        click.echo(line_of(each))


def _belongs(event: dict[str, Any], case_id: str) -> bool:
    evidence = event.get("evidence") or {}
    return case_id in (event["name"], evidence.get("case"), evidence.get("incident"))


def done_about(kind: str) -> str:
    """Return the default ladder of a kind in words."""
    treatment = ladder()[kind]
    if not treatment.rungs:
        return "nothing by itself: it is shown and paged"
    after = f", once it is open for {spell(treatment.patience_seconds)}" if treatment.patience_seconds else ""
    return f"{', then '.join(rung.name for rung in treatment.rungs)} ({treatment.urgency.value}{after})"


def _kind_named(text: str) -> Kind:
    """Return a kind by its name, or by the part behind the dot where only one room has that."""
    if text in KINDS:
        return KINDS[text]
    same = [name for name in KINDS if name.partition(".")[2] == text]
    if len(same) == 1:
        return KINDS[same[0]]
    near = difflib.get_close_matches(text, [*KINDS, *(name.partition(".")[2] for name in KINDS)], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`gpuwarden explain finding` lists them all."
    raise InputError(f"no such kind of finding: {text}\n{hint}")


def _ends(kind: Kind) -> str:
    defaults = kind.defaults
    if defaults.event_class is not None:
        return _ENDS[defaults.event_class].format(latch=spell(defaults.latch_seconds or 0.0))
    return f"when it is gone for {spell(defaults.clear_seconds)}" if defaults.clear_seconds else "when it is gone"


def _finding_fields(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "title": kind.title,
        "meaning": kind.meaning,
        **msgspec.to_builtins(kind.defaults),
        "source": kind.source,
        "runbook": f"{RUNBOOKS}{kind.name}.md",
    }


def _xid_row(code: int) -> dict[str, Any]:
    row = XIDS[code]
    opened = finding_of(code)
    return {
        "code": code,
        "severity": row.severity.value,
        "action": row.action.value,
        "finding": opened.kind if opened else None,
        "summary": row.summary,
    }


def _sxid_row(code: int) -> dict[str, Any]:
    row = SXIDS[code]
    return {"code": code, "severity": row.severity.value, "fatal": row.fatal.value, "summary": row.summary}


def _vendor(immediate: str, investigatory: str) -> str:
    said = [f"at once {immediate}" if immediate else "", f"then {investigatory}" if investigatory else ""]
    return ", ".join(each for each in said if each)


def _print_lines(title: str, lines: list[tuple[str, str]]) -> None:
    """Print a title, then name and text, one a line; a line without text is left out."""
    click.echo(title)
    for name, text in lines:
        if text:
            click.echo(f"  {name:<13} {text}")


def _print_catalogue(rows: list[dict[str, Any]], output_format: str) -> None:
    if output_format == "json":
        print_json(rows)
        return
    made = table(*(name.upper() for name in rows[0]), right=("CODE",))
    for row in rows:
        made.add_row(*("-" if value is None else str(value) for value in row.values()))
    print_table(made)
