"""A GPU reset: refused before anything is touched, or done in its order, with everything put back after any end."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.backend import Answer, done, failed
from gpuwarden.actuators.commands import CommandError
from gpuwarden.actuators.effect import bring_about
from gpuwarden.actuators.notes import Notes
from gpuwarden.actuators.platform import RULES, Fabric, not_alone
from gpuwarden.actuators.reset import put_back, reset
from gpuwarden.model.case import ActionKind, Intent, Outcome
from support.actuatorlab import Lab, bdf, uuid

SMI = """
case "$*" in
  --query-gpu*) cat {root}/says;;
  nvlink*) cat {root}/nvlink 2>/dev/null;;
  *--gpu-reset*) {reset};;
  *-pm*) {pm};;
esac
"""
SYSTEMCTL = """
case "$1" in
  show) shift 4; for unit; do echo "ActiveState=$(cat {root}/unit.$unit 2>/dev/null || echo inactive)"; done;;
esac
"""


class Card(Lab):
    """A host whose first GPU is to be reset."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = root / "sys/bus/pci/devices" / bdf(0)
        self.smi()
        self.says()
        self.program("systemctl", SYSTEMCTL.replace("{root}", str(root)))

    def smi(self, *, reset: str = ":", pm: str = ":") -> None:
        body = SMI.replace("{root}", str(self.root)).replace("{reset}", reset).replace("{pm}", pm)
        self.program("nvidia-smi", body)

    def says(self, line: str = "Disabled, [N/A], Disabled, 8.9") -> None:
        (self.root / "says").write_text(f"{line}\n")

    def reset(self, **changes: object) -> Answer:
        return bring_about(self.site, self.intent(ActionKind.RESET, **changes))

    @property
    def effects(self) -> list[str]:
        """Return the calls that change something."""
        return [call for call in self.calls() if not any(word in call for word in (" show ", "--query-gpu", "nvlink "))]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A plain GPU that can be reset."""
    return Card(tmp_path)


def test_a_plain_gpu_is_reset_by_its_uuid(card: Card) -> None:
    """Nothing else is touched."""
    assert card.reset() == Answer(Outcome.DONE, "reset")
    assert card.effects == [f"nvidia-smi --gpu-reset -i {uuid(0)}"]


def test_persistence_and_paused_units_go_first_and_come_back(card: Card) -> None:
    """In this order, and only what was on."""
    card.says("Disabled, Disabled, Enabled, 8.0")
    units = ("nvidia-dcgm.service", "other.service")
    card.config = replace(card.config, actuator=replace(card.config.actuator, pause_units=units))
    (card.root / "unit.nvidia-dcgm.service").write_text("active")
    assert card.reset().outcome is Outcome.DONE
    assert card.effects == [
        "systemctl stop --no-ask-password -- nvidia-dcgm.service",
        f"nvidia-smi -i {bdf(0)} -pm 0",
        f"nvidia-smi --gpu-reset -i {uuid(0)}",
        "systemctl start --no-ask-password -- nvidia-dcgm.service",
        f"nvidia-smi -i {bdf(0)} -pm 1",
    ]


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        pytest.param(
            "The following GPUs could not be reset:\\n  GPU 0: In use by another client", Outcome.FAILED, id="in-use"
        ),
        pytest.param("GPU 0 is currently in use by one or more other processes", Outcome.FAILED, id="busy"),
        pytest.param("Insufficient Permissions", Outcome.FAILED, id="not-root"),
        pytest.param("GPU Reset couldn't run because GPU 0 is the primary GPU.", Outcome.REFUSED, id="primary"),
        pytest.param("Resetting GPU 0 is not supported.", Outcome.REFUSED, id="not-supported"),
        pytest.param("No devices were found", Outcome.FAILED, id="nothing-there"),
        pytest.param("GPU 0: Unknown Error", Outcome.EFFECT_UNKNOWN, id="unknown-words"),
        pytest.param("", Outcome.EFFECT_UNKNOWN, id="no-words"),
    ],
)
def test_every_failure_has_its_outcome_and_puts_everything_back(card: Card, words: str, outcome: Outcome) -> None:
    """What has no row may have come after the reset began."""
    card.says("Disabled, Disabled, Enabled, 8.0")
    card.smi(reset=f'printf "{words}\\n"; exit 3')
    answer = card.reset()
    assert answer.outcome is outcome
    assert answer.detail
    assert card.effects[-1] == f"nvidia-smi -i {bdf(0)} -pm 1"
    assert Notes(card.root / "state", "reset").read() == {}


def test_persistence_that_cannot_be_turned_off_keeps_the_reset_from_being_tried(card: Card) -> None:
    """It would be refused as in use; what was put aside by then is back."""
    card.says("Disabled, Disabled, Enabled, 8.0")
    card.smi(pm='[ "$4" = 1 ] || { echo Unknown Error; exit 1; }')
    assert card.reset() == Answer(Outcome.FAILED, "Unknown Error")
    assert card.effects == [f"nvidia-smi -i {bdf(0)} -pm 0", f"nvidia-smi -i {bdf(0)} -pm 1"]


def test_a_reset_that_does_not_end_is_unknown_and_persistence_is_back(card: Card) -> None:
    """It has its share of the deadline; what comes after has time left."""
    card.says("Disabled, Disabled, Enabled, 8.0")
    card.smi(reset="exec sleep 60")
    assert card.reset(deadline_seconds=1.0).outcome is Outcome.EFFECT_UNKNOWN
    assert card.effects[-1] == f"nvidia-smi -i {bdf(0)} -pm 1"


def test_what_does_not_come_back_is_said_and_tried_again_later(card: Card) -> None:
    """Its note stays until it is back."""
    card.says("Disabled, Disabled, Enabled, 8.0")
    card.smi(pm='[ "$4" = 0 ] || { echo Unknown Error; exit 1; }')
    answer = card.reset()
    assert answer.outcome is Outcome.DONE
    assert f"persistence of {bdf(0)} is not back" in answer.detail
    card.smi()
    assert put_back(card.site) == []
    assert put_back(card.site) == []
    assert card.effects[-1] == f"nvidia-smi -i {bdf(0)} -pm 1"


# ---- refusals


def not_on_bus(card: Card) -> None:
    (card.folder / "config").unlink()


def answers_all_ones(card: Card) -> None:
    (card.folder / "config").write_bytes(b"\xff" * 4)


def passed_through(card: Card) -> None:
    (card.folder / "driver").unlink()
    (card.folder / "driver").symlink_to("../../drivers/vfio-pci")


def carries_vgpus(card: Card) -> None:
    (card.folder / "mdev_supported_types/nvidia-105/devices/4b20").mkdir(parents=True)


def has_virtual_functions(card: Card) -> None:
    (card.folder / "sriov_numvfs").write_text("4\n")


def is_primary(card: Card) -> None:
    (card.folder / "boot_vga").write_text("1\n")


def has_a_monitor(card: Card) -> None:
    (card.folder / "drm/card1/card1-DP-1").mkdir(parents=True)
    (card.folder / "drm/card1/card1-DP-1/status").write_text("connected\n")


def shows_something(card: Card) -> None:
    card.says("Enabled, Disabled, Disabled, 8.9")


def has_mig(card: Card) -> None:
    card.says("Disabled, Enabled, Disabled, 8.0")


def has_old_nvlink(card: Card) -> None:
    card.says("Disabled, [N/A], Disabled, 7.0")
    (card.root / "nvlink").write_text("GPU 0: Tesla V100 (UUID: GPU-0)\n\t Link 0: 25.781 GB/s\n")


def has_switches_without_manager(card: Card) -> None:
    card.says("Disabled, Disabled, Disabled, 8.0")
    (card.root / "driver/nvidia-nvswitch/devices/0000:c4:00.0").mkdir(parents=True)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (not_on_bus, "not on the bus"),
        (answers_all_ones, "does not answer on the bus"),
        (passed_through, "bound to vfio-pci"),
        (carries_vgpus, "vGPU"),
        (has_virtual_functions, "vGPU"),
        (is_primary, "primary display"),
        (has_a_monitor, "display is attached"),
        (shows_something, "display is active"),
        (has_mig, "MIG is enabled"),
        (has_old_nvlink, "only with all its peers"),
        (has_switches_without_manager, "only with all its peers"),
    ],
)
def test_refused_before_anything_is_touched(card: Card, made: object, why: str) -> None:
    """Each with its reason, which the case shows."""
    assert callable(made)
    made(card)
    answer = card.reset()
    assert answer.outcome is Outcome.REFUSED
    assert why in answer.detail
    assert card.effects == []


def test_whoever_holds_the_gpu_is_named(card: Card) -> None:
    """Nobody is ended for a reset: that is another rung."""
    with card.holder(0) as process, card.holder(1):
        answer = card.reset()
    assert answer == Answer(Outcome.REFUSED, f"in use by sleep[{process.pid}]")
    assert card.effects == []


def test_our_own_worker_must_have_let_go(card: Card) -> None:
    """The daemon replaces it by one that opens the other GPUs only; until then the reset is refused as that."""
    folder = card.root / "proc/77"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/9").symlink_to(card.root / "dev/nvidia0")
    (folder / "stat").write_text("77 (python3) S 1 " + " ".join(["0"] * 17) + " 5 0\n")
    for name, text in (("comm", "python3"), ("cgroup", "0::/"), ("cmdline", "python3\0-m\0gpuwarden.nvml.worker\0")):
        (folder / name).write_text(text)
    site = replace(card.site, place=replace(card.site.place, proc=str(card.root / "proc")))
    answer = bring_about(site, card.intent(ActionKind.RESET))
    assert answer == Answer(Outcome.REFUSED, "in use by gpuwarden's own worker (python3[77])")


def test_nvidia_smi_that_hangs_before_the_reset_has_done_nothing(card: Card) -> None:
    """A failure, not an unknown: the reset was not begun."""
    card.program("nvidia-smi", "echo No devices were found; exit 6")
    assert card.reset() == Answer(Outcome.FAILED, "nvidia-smi cannot say how the GPU is set: No devices were found")


def test_mig_is_reset_where_its_instances_can_be_made_again(card: Card) -> None:
    """With an executable for that, which is called after the reset."""
    has_mig(card)
    card.action("restore-mig")
    assert card.reset().outcome is Outcome.DONE
    assert card.calls()[-1] == "restore-mig act"
    card.action("restore-mig", "echo no profiles >&2; exit 1")
    answer = card.reset()
    assert answer == Answer(Outcome.DONE, "reset; restore-mig: no profiles")


def test_active_links_between_ampere_cards_do_not_stand_in_the_way(card: Card) -> None:
    """Direct NVLink from Ampere on; a bridge that is not plugged in joins nobody."""
    (card.root / "nvlink").write_text("GPU 0: NVIDIA RTX A6000\n\t Link 0: 14.062 GB/s\n")
    assert card.reset().outcome is Outcome.DONE
    card.says("Disabled, [N/A], Disabled, 7.5")
    (card.root / "nvlink").write_text("GPU 0: NVIDIA GeForce RTX 2080 SUPER\n\t Link 0: <inactive>\n")
    assert card.reset().outcome is Outcome.DONE


@pytest.mark.parametrize("capability", [6.1, 7.0, 7.5, 8.0, 8.6, 8.9, 9.0, 10.0, 12.0])
@pytest.mark.parametrize("fabric", list(Fabric))
def test_each_platform_has_one_rule(fabric: Fabric, capability: float) -> None:
    """The table is total and without overlaps."""
    rows = [row for row in RULES if row.fabric is fabric and row.capability_from <= capability < row.capability_below]
    assert len(rows) == 1
    assert (not_alone(fabric, capability, manager=True) == "") is rows[0].alone_with_manager
    assert (not_alone(fabric, capability, manager=False) == "") is rows[0].alone_without


class Pods:
    """A scheduler with pods that hold every GPU: implements `Pauses`, and says when it is asked."""

    def __init__(self, card: Card, pause: Answer, resume: Answer) -> None:
        self.card, self.pause, self.resume = card, pause, resume
        self.asked: list[tuple[str, int]] = []  # with how many effects there were before

    def pause_holders(self, intent: Intent) -> Answer:
        self.asked.append((f"pause {intent.case}", len(self.card.effects)))
        return self.pause

    def resume_holders(self, intent: Intent) -> Answer:
        self.asked.append((f"resume {intent.case}", len(self.card.effects)))
        return self.resume


@pytest.mark.parametrize(
    ("pause", "resume", "outcome", "detail"),
    [
        pytest.param(done(), done(), Outcome.DONE, "reset", id="all-well"),
        pytest.param(done(), failed("no answer"), Outcome.DONE, "paused pods are not back: no answer", id="not-back"),
    ],
)
def test_pods_that_hold_gpus_are_away_for_the_reset(
    card: Card, pause: Answer, resume: Answer, outcome: Outcome, detail: str
) -> None:
    """Before the first effect they are gone, after the last they may come back."""
    pods = Pods(card, pause, resume)
    answer = reset(card.site, card.intent(ActionKind.RESET), pods)
    assert (answer.outcome, detail in answer.detail) == (outcome, True)
    assert [at for _, at in pods.asked] == [0, len(card.effects)]


def test_pods_that_do_not_leave_prevent_the_reset_and_come_back(card: Card) -> None:
    """Nothing was reset; what was asked of them is taken back."""
    pods = Pods(card, failed("still there: a/b"), done())
    with pytest.raises(CommandError, match="still there: a/b"):
        reset(card.site, card.intent(ActionKind.RESET), pods)
    assert (len(pods.asked), card.effects) == (2, [])
