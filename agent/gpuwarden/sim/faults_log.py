"""Faults that are seen in the kernel log: Xids with and without their words, NVSwitch errors, hung tasks, any line."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim import kernel_lines
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import EVENT_XID, NOT_MIG, Fault, Node, Options

_USER_FACILITY = 1  # syslog facility of lines that a program wrote into /dev/kmsg
_GSP_TIMEOUT, _RECOVERY_CHANGED = 119, 154


def _tell(node: Node, card: Card | None, code: int, pid: int = 4242, text: str = "") -> None:
    assert card is not None
    node.log(kernel_lines.xid(card, code, pid, text))
    node.event(card, EVENT_XID, code)


def _xid(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    code, gi, ci = (int(options[name]) for name in ("code", "gi", "ci"))
    where = "".join(f" GPU-{kind}:{number:02d}" for kind, number in (("I", gi), ("CI", ci)) if number >= 0)
    node.log(kernel_lines.xid(card, code, int(options["pid"]), str(options["text"]), where))
    node.event(card, EVENT_XID, code, gi=gi if gi >= 0 else NOT_MIG, ci=ci if ci >= 0 else NOT_MIG)


def _xid_storm(node: Node, card: Card | None, options: Options) -> None:
    for number in range(int(options["count"])):
        _tell(node, card, int(options["code"]), 5000 + number // max(1, int(options["lines_each"])))


def _nvlink5(node: Node, card: Card | None, options: Options) -> None:
    words = [int(str(options[name]), 0) for name in ("intr_info", "status")]
    text = kernel_lines.nvlink5(str(options["unit"]), int(options["link"]), *words, fatal=bool(options["fatal"]))
    _tell(node, card, int(options["code"]), text=text)


def _gsp_timeout(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    for number in range(int(options["count"])):
        _tell(node, card, _GSP_TIMEOUT, 6000 + number)
    node.log(kernel_lines.rate_limited(card))


def _recovery(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.recovery_action = int(options["to"])


def _recovery_begin(node: Node, card: Card | None, options: Options) -> None:
    if options["quiet"]:
        return
    text = kernel_lines.recovery_changed(int(options["was"]), int(options["to"]), str(options["label"]))
    _tell(node, card, _RECOVERY_CHANGED, text=text)


def _sxid(node: Node, _: Card | None, options: Options) -> None:
    code, link, switch = (int(options[name]) for name in ("code", "link", "switch"))
    for line in kernel_lines.sxid(code, link, switch, fatal=bool(options["fatal"])):
        node.log(line)


def _hung_task(node: Node, _: Card | None, options: Options) -> None:
    task, pid, seconds = str(options["task"]), int(options["pid"]), int(options["seconds"])
    node.log(f"INFO: task {task}:{pid} blocked for more than {seconds} seconds.")


def _init_failed(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    for line in kernel_lines.init_failed(card, str(options["status"])):
        node.log(line)


def _line(node: Node, _: Card | None, options: Options) -> None:
    text, level = str(options["text"]), int(options["level"])
    if not text or not 0 <= level <= 7:
        raise InputError("kernel_line: give it a text, and a level from 0 to 7")
    node.log(text, level | (_USER_FACILITY if options["user"] else 0) << 3)


LOG_FAULTS = (
    Fault(
        name="xid",
        what="one Xid: its kernel line and its NVML event, nothing else",
        lasts=False,
        options={"code": 79, "pid": 4242, "text": "", "gi": -1, "ci": -1},
        begin=_xid,
    ),
    Fault(
        name="xid_storm",
        what="`count` Xids at once, each of another process, or so many `lines_each`",
        lasts=False,
        options={"code": 31, "count": 12, "lines_each": 1},
        begin=_xid_storm,
    ),
    Fault(
        name="nvlink5",
        what="an NVLink5 Xid with these words",
        lasts=False,
        options={
            "code": 149,
            "unit": "NETIR_LINK_EVT",
            "link": 3,
            "intr_info": "0x00400011",
            "status": "0x0",
            "fatal": 1,
        },
        begin=_nvlink5,
    ),
    Fault(
        name="gsp_timeout",
        what="the GSP times out `count` times (Xid 119), then the driver prints one of thirty",
        lasts=False,
        options={"count": 3},
        begin=_gsp_timeout,
    ),
    Fault(
        name="recovery",
        cure="reset",
        what="the driver's recovery action changes (Xid 154 and the reading) from `was` to `to`, with any label; "
        "quiet=1: found so when the driver was loaded, the reading alone",
        options={"was": 0, "to": 1, "label": "", "quiet": 0},
        card=_recovery,
        begin=_recovery_begin,
    ),
    Fault(
        name="sxid",
        what="an NVSwitch error with its three lines",
        gpu="none",
        lasts=False,
        options={"code": 20034, "fatal": 1, "link": 30, "switch": 0},
        begin=_sxid,
    ),
    Fault(
        name="hung_task",
        what="the kernel says that a task is blocked",
        gpu="none",
        lasts=False,
        options={"task": "nvidia-smi", "pid": 4242, "seconds": 120},
        begin=_hung_task,
    ),
    Fault(
        name="init_failed",
        what="the driver says that it cannot start the GPU",
        lasts=False,
        options={"status": "0x62:0x40:2477"},
        begin=_init_failed,
    ),
    Fault(
        name="kernel_line",
        what="any line in the kernel log (user=1: written by a program)",
        gpu="none",
        lasts=False,
        options={"text": "NVRM: simulated", "level": 4, "user": 0},
        begin=_line,
    ),
)
