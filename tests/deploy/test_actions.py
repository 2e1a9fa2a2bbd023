"""The example executables keep the contract that their README writes down."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer
from gpuwarden.actuators.effect import bring_about
from gpuwarden.actuators.means import BACKENDS
from gpuwarden.config import Isolation
from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.actuatorlab import MARK, Lab

ACTIONS = Path(__file__).parents[2] / "deploy" / "actions.d"
EXAMPLES = sorted(path.name for path in ACTIONS.iterdir() if path.suffix != ".md")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A host with all examples installed, reading its own files where they read /etc and /run."""
    made = Lab(tmp_path)
    for name in EXAMPLES:
        text = (ACTIONS / name).read_text().replace("/etc/gpuwarden/", f"{tmp_path}/").replace(
            "/run/gpuwarden-actuator/", f"{tmp_path}/"
        )  # fmt: skip
        (made.actions / name).write_text(text)
        (made.actions / name).chmod(0o755)
    return made


def act(lab: Lab, name: str) -> Answer:
    return bring_about(lab.site, lab.intent(ActionKind.COMMAND, command=name))


def test_the_readme_names_every_example() -> None:
    """And they can be executed."""
    text = (ACTIONS / "README.md").read_text()
    assert [name for name in EXAMPLES if f"`{name}`" not in text] == []
    assert all((ACTIONS / name).stat().st_mode & 0o111 for name in EXAMPLES)


@pytest.mark.parametrize(
    ("name", "tool", "call"),
    [
        ("bmc-power-cycle", "ipmitool", "ipmitool chassis power cycle"),
        ("pdu-power-cycle", "snmpset", "snmpset -v2c -c secret pdu7 1.3.6.1.4.1.318.1.1.4.4.2.1.3.12 i 3"),
        ("restore-mig", "nvidia-mig-parted", "nvidia-mig-parted apply --config-file"),
    ],
)
def test_a_rung_calls_its_tool(lab: Lab, name: str, tool: str, call: str) -> None:
    """Its failure is the rung's."""
    (lab.root / "pdu").write_text("PDU=pdu7\nOUTLET=12\nCOMMUNITY=secret\n")
    lab.program(tool)
    assert act(lab, name).outcome is Outcome.DONE
    assert lab.calls()[-1].startswith(call)
    lab.program(tool, "echo no answer >&2; exit 1")
    assert act(lab, name) == Answer(Outcome.FAILED, "no answer")


def test_a_ticket_is_posted_or_tried_again(lab: Lab) -> None:
    """The case is its body."""
    lab.program("curl", f"cat > {lab.root}/posted")
    assert act(lab, "ticket").outcome is Outcome.DONE
    assert f'"mark":"{MARK}"' in (lab.root / "posted").read_text()
    lab.program("curl", "echo could not connect >&2; exit 7")
    assert act(lab, "ticket") == Answer(Outcome.FAILED, "not now: could not connect")


def test_an_isolation_back_end_takes_back_its_own_only(lab: Lab) -> None:
    """What somebody else wrote stays."""
    assert shutil.which("sed")
    lab.config = replace(lab.config, isolation=Isolation(backend="command", command="drain-load-balancer"))
    backend = BACKENDS["command"](lab.site)
    assert backend.look(Surroundings()).isolated is False
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE)).outcome is Outcome.DONE
    around = backend.look(Surroundings())
    assert (around.isolated, around.mark) == (True, MARK)
    assert bring_about(lab.site, lab.intent(ActionKind.RELEASE, mark="other")).outcome is Outcome.REFUSED
    assert bring_about(lab.site, lab.intent(ActionKind.RELEASE)).outcome is Outcome.DONE
    (lab.root / "out-of-service").write_text("admin")
    assert bring_about(lab.site, lab.intent(ActionKind.ISOLATE)) == Answer(Outcome.REFUSED, "taken out by admin")
