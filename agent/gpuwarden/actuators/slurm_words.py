"""What Slurm's tools print, as records. Pure.

Nodes and jobs are read from the form of several lines, where what people wrote (reasons, comments, job names) stands
alone on its line; reservations from the form of one line. Times are read as UTC: the tools are run with `TZ=UTC`.
Recorded from Slurm 22.05.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

SLOT_PREFIX = "gpuwarden-slot-"
OURS = "gpuwarden "  # what every reason and every record of ours begins with

_FREE = ("Reason", "Comment", "Extra", "OS")  # values with spaces: to the end of their line
_SET_BY = re.compile(r" \[(?P<by>[^\[\]@]*)@(?P<when>[0-9T:-]+)\]$")
_AFTER_STATE = "*~#!%$@^-+"  # single characters with which some versions append flags to a state
_NOTHING = frozenset({"", "(null)", "None", "Unknown", "N/A"})
_OUT = frozenset({"DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"})
_BROKEN = frozenset({"DOWN", "ERROR", "UNKNOWN"})
_GRES_LINE = re.compile(r"^\s+Nodes=(?P<nodes>\S+) CPU_IDs=\S* Mem=\S* GRES=(?P<gres>\S*)\s*$")
_GRES = re.compile(r"(?P<name>[^:,()]+)(?::[^:,()]+)?:\d+\(IDX:(?P<index>[0-9,-]+)\)")
_GRES_COUNT = re.compile(r"\bgpu(?::[^:,()\s]+)?:(?P<count>\d+)")
_HOLDS_GPU = re.compile(r"^\s+(?:JOB_GRES|TRES|AllocTRES|TresPer\w+)=.*\b(?:gpu|shard|mps)\b", re.MULTILINE)
_BY_REBOOT = re.compile(r"( : reboot (issued|complete|timed out))*$")
_REBOOTED = " : reboot issued : reboot complete"


class SlurmNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the controller knows it. Times are Unix time; None: Slurm does not know."""

    name: str
    hostname: str = ""
    states: frozenset[str] = frozenset()  # the base state and its flags
    reason: str = ""
    by: str = ""  # the user who set it
    reason_time: float | None = None
    boot_time: float | None = None
    partitions: tuple[str, ...] = ()
    gpus: int = 0
    extra: str = ""

    @property
    def drained(self) -> bool:
        """Return whether no new work comes by drain or failing."""
        return bool(self.states & _OUT)

    @property
    def broken(self) -> bool:
        """Return whether it is down, or in a state nobody knows."""
        return bool(self.states & _BROKEN)

    @property
    def out(self) -> bool:
        """Return whether no new work comes, for whatever reason."""
        return self.drained or self.broken

    @property
    def ours(self) -> bool:
        """Return whether some gpuwarden took it out."""
        return self.out and self.reason.startswith(OURS)


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One reservation. `nodes` is Slurm's own list, unexpanded."""

    name: str
    nodes: str = ""
    start: float | None = None
    end: float | None = None

    @property
    def slot(self) -> int | None:
        """Return which slot of the fleet it is; None for a reservation of other people's."""
        number = self.name.removeprefix(SLOT_PREFIX)
        return int(number) if number != self.name and number.isascii() and number.isdecimal() else None


def plain_reason(reason: str) -> str:
    """Return a reason without what Slurm itself appends around `scontrol reboot`."""
    return _BY_REBOOT.sub("", reason)


def standing_mark(reason: str, mark: str) -> bool:
    """Return whether a reason is a mark to the letter, but for what Slurm itself appends around `scontrol reboot`."""
    return bool(mark) and plain_reason(reason) == mark


def rebooted_by_slurm(reason: str, mark: str) -> bool:
    """Return whether Slurm says that a reboot it was told under a mark is complete. It takes the drain away then."""
    return bool(mark) and reason == mark + _REBOOTED


def parse_nodes(shown: str) -> tuple[SlurmNode, ...]:
    """Return the nodes of `scontrol show node`. A block without a name is skipped."""
    return tuple(node for block in shown.split("\n\n") if (node := _node(_fields(block))) is not None)


def parse_reservations(shown: str) -> tuple[Reservation, ...]:
    """Return the reservations of `scontrol -o show reservation`."""
    found = []
    for line in shown.splitlines():
        fields = _pairs(line)
        if name := fields.get("ReservationName"):
            nodes, start, end = fields.get("Nodes", ""), _time(fields.get("StartTime")), _time(fields.get("EndTime"))
            found.append(Reservation(name=name, nodes="" if nodes in _NOTHING else nodes, start=start, end=end))
    return tuple(found)


def parse_job_ids(shown: str) -> tuple[str, ...]:
    """Return the job ids of `squeue -h -o %A`, each once."""
    return tuple(dict.fromkeys(word for word in shown.split() if word.isascii() and word.isdecimal()))


def parse_job_gpus(shown: str, node: str) -> tuple[int, ...] | None:
    """Return which GPUs of a node a job of `scontrol -d show job` holds, by the index of their GRES.

    None where it holds GPUs or parts of them of which no index is given for this node.
    """
    indices: list[int] = []
    for line in shown.splitlines():
        match = _GRES_LINE.match(line)
        if match is None or node not in hosts(match["nodes"]):
            continue
        given = [_numbers(each["index"]) for each in _GRES.finditer(match["gres"]) if each["name"] == "gpu"]
        if not given and match["gres"]:
            return None
        indices.extend(index for group in given for index in group)
    if not indices and _HOLDS_GPU.search(shown):
        return None
    return tuple(sorted(set(indices)))


def parse_setting(shown: str, key: str) -> str:
    """Return one setting of `scontrol show config`, "" where it is not set."""
    for line in shown.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == key:
            return "" if value.strip() in _NOTHING else value.strip()
    return ""


def hosts(nodes: str) -> tuple[str, ...]:
    """Return the names of a Slurm host list such as `a1,n[1-3,07]`; widths of numbers are kept."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        names = [""]
        for text, group in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            ends = [text] if text else [number for each in group.split(",") for number in _span(each)]
            names = [name + end for name in names for end in ends]
        found.extend(names)
    return tuple(found)


def _span(text: str) -> list[str]:
    first, dash, last = text.partition("-")
    if not dash or not (first.isdecimal() and last.isdecimal()):
        return [text]
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _numbers(text: str) -> list[int]:
    return [int(number) for each in text.split(",") for number in _span(each) if number.isdecimal()]


def _fields(block: str) -> dict[str, str]:
    """Return KEY=VALUE of a block: several to a line, but for those that hold people's words."""
    fields: dict[str, str] = {}
    for line in block.splitlines():
        key, _, value = line.strip().partition("=")
        if key in _FREE:
            fields.setdefault(key, value)
        else:
            fields = _pairs(line) | fields
    return fields


def _pairs(line: str) -> dict[str, str]:
    return {key: value for key, equals, value in (word.partition("=") for word in line.split()) if equals}


def _node(fields: dict[str, str]) -> SlurmNode | None:
    name = fields.get("NodeName")
    if not name:
        return None
    reason = fields.get("Reason", "")
    match = _SET_BY.search(reason)
    hostname, extra = fields.get("NodeHostName", ""), fields.get("Extra", "")
    gpus = sum(int(each["count"]) for each in _GRES_COUNT.finditer(fields.get("Gres", "")))
    return SlurmNode(
        name=name,
        hostname="" if hostname in _NOTHING else hostname,
        states=frozenset(state.rstrip(_AFTER_STATE) for state in fields.get("State", "UNKNOWN").split("+")),
        reason=reason[: match.start()] if match else reason,
        by=match["by"] if match else "",
        reason_time=_time(match["when"]) if match else None,
        boot_time=_time(fields.get("BootTime")),
        partitions=tuple(each for each in fields.get("Partitions", "").split(",") if each),
        gpus=gpus,
        extra="" if extra in _NOTHING else extra,
    )


def _time(text: str | None) -> float | None:
    if text is None or text in _NOTHING:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
