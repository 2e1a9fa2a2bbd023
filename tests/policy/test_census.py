"""Who is there: what each pair of witnesses allows to be said about a GPU."""

from __future__ import annotations

import pytest

from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.model.observation import GpuAsleep, PausedGpu, PciDevice, PciScanned, WorkerChanged, WorkerState
from gpuwarden.model.snapshot import Presence
from gpuwarden.model.step import ReopenNvml
from support.story import BOOT, Story, bdf, uuid


def test_eight_answering_gpus_are_healthy() -> None:
    """A GPU that answers, has fresh readings and no finding is healthy; so is the host."""
    story = Story().started(8)
    assert {gpu.health for gpu in story.node.gpus.values()} == {Health.HEALTHY}
    assert story.node.health is Health.HEALTHY
    assert story.open() == set()


def test_lost_in_flight_is_critical_at_once_and_leaves_the_others_alone() -> None:
    """GPU_IS_LOST: a finding in the same step, readings gone (never 0), siblings untouched."""
    story = Story().started(4)
    story.failed(2, 15)
    assert story.open() == {("presence.gpu_lost", uuid(2))}
    assert story.gpu(2).readings.core_celsius is Missing.GPU_LOST
    assert story.gpu(2).health is Health.UNHEALTHY
    assert story.gpu(1).health is Health.HEALTHY
    evidence = story.node.incidents["presence.gpu_lost", uuid(2)].evidence
    assert (evidence["slot"], evidence["serial"], evidence["nvml_return_code"]) == ("slot2", "S2", 15)


def test_unknown_on_handle_creation_is_that_card_lost() -> None:
    """Code 999 for one index while the siblings answer: the one silent GPU of the inventory is lost."""
    story = Story().started(4)
    story.session(4)
    for number in (0, 1, 3):
        story.opened(number)
    story.failed(2, 999, named=False)
    assert ("presence.gpu_lost", uuid(2)) in story.open()
    assert story.gpu(1).presence is Presence.ANSWERING


def test_unknown_for_every_card_on_a_healthy_bus_is_lost_access() -> None:
    """A container that lost its device rules: all handles answer 999, the bus is fine; no card is called dead."""
    story = Story().started(4)
    story.session(4)
    for number in range(4):
        story.failed(number, 999, named=False)
    assert {gpu.presence for gpu in story.node.gpus.values()} == {Presence.ACCESS_LOST}
    assert {kind for kind, _ in story.open()} == {"presence.access_lost"}


def test_a_nameless_failure_is_not_pinned_on_a_gpu_before_the_others_have_answered() -> None:
    """An index may have moved: until all handles are in, nobody is accused; after three seconds the index counts."""
    story = Story().started(4)
    story.session(4)
    story.failed(2, 15, named=False)
    assert story.gpu(2).presence is Presence.UNSEEN
    story.wait(5)
    assert story.gpu(2).presence is Presence.LOST


def test_missing_needs_a_complete_session_and_the_bus() -> None:
    """Seen neither by NVML nor on the bus is missing; with the session still counting it is only unknown."""
    story = Story().started(3)
    story.pci(0, 1)
    story.session(2)
    story.opened(0)
    assert story.gpu(2).presence is Presence.UNSEEN
    assert story.gpu(2).health is Health.UNKNOWN
    story.opened(1)
    assert story.gpu(2).presence is Presence.MISSING
    assert ("presence.gpu_missing", uuid(2)) in story.open()


def test_a_gpu_on_the_bus_that_the_driver_does_not_list_is_lost_not_missing() -> None:
    """Bound to the driver, visible on the bus, absent from a complete session."""
    story = Story().started(3)
    story.session(2)
    story.opened(0)
    story.opened(1)
    assert ("presence.gpu_lost", uuid(2)) in story.open()


def test_indexes_do_not_move_when_a_sibling_vanishes() -> None:
    """The series label `gpu` is the inventory's: NVML's own indexes close ranks, ours do not."""
    story = Story().started(3)
    story.pci(0, 2)
    story.session(2)
    story.opened(0, index=0)
    story.opened(2, index=1)
    assert story.gpu(2).index == 2
    assert story.node.by_index == {0: uuid(0), 1: uuid(2)}


def test_vfio_is_never_missing() -> None:
    """A GPU handed to vfio-pci is bound elsewhere: information, no page."""
    story = Story().started(1)
    story.pci(0, driver="vfio-pci")
    story.session(0)
    story.wait(1)
    assert story.gpu(0).presence is Presence.BOUND_ELSEWHERE
    assert {kind for kind, _ in story.open()} == {"presence.bound_elsewhere"}


def test_a_device_that_never_answered_has_its_address_for_a_name_and_gets_its_own_later() -> None:
    """`PCI-<bdf>` until it answers; then the GPU has its index and what was open about it."""
    story = Story()
    story.pci(0, 1)
    story.session(1)
    story.opened(0)
    nameless = f"PCI-{bdf(1)}"
    assert ("presence.gpu_lost", nameless) in story.open()
    index = story.node.gpus[nameless].index
    story.session(2)
    story.opened(0)
    story.opened(1)
    assert nameless not in story.node.gpus
    assert story.gpu(1).index == index
    story.wait(1)
    assert story.open() == set()


def test_blocked_names_the_call_and_ends_with_the_next_sample() -> None:
    """A call past its deadline: that GPU is named, its siblings go on; a sample is proof that it is over."""
    story = Story().started(2)
    story.blocked(1)
    incident = story.node.incidents["presence.nvml_blocked", uuid(1)]
    assert incident.evidence["call"] == "nvmlDeviceGetTemperature"
    assert story.gpu(0).health is Health.HEALTHY
    story.sample(1)
    assert story.open() == set()


def test_a_blocked_handle_call_is_its_gpu_blocked() -> None:
    """A card that hangs on attach has no BDF yet: the one silent GPU of the inventory is named."""
    story = Story().started(2)
    story.session(2)
    story.opened(0)
    story.take(story_blocked(story, 1))
    assert ("presence.nvml_blocked", uuid(1)) in story.open()


def story_blocked(story: Story, index: int):  # type: ignore[no-untyped-def]
    from gpuwarden.model.observation import GpuBlocked

    return GpuBlocked(at=story.at, index=index, bdf="", call="nvmlDeviceGetHandleByIndex_v2", since=story.boottime - 6)


def test_a_new_session_neither_clears_nor_opens_before_gpus_answer() -> None:
    """After a worker restart nothing is known: an open gpu_lost stays open until somebody says otherwise."""
    story = Story().started(2)
    story.failed(1, 15)
    story.session(2)
    story.wait(2)
    assert ("presence.gpu_lost", uuid(1)) in story.open()
    story.opened(0)
    story.opened(1)
    story.wait(1)
    assert story.open() == set()


def test_no_driver_is_critical_only_where_there_are_gpus() -> None:
    """A host without NVIDIA devices needs no driver; one with devices on the bus is broken without it."""
    story = Story()
    down = WorkerChanged(at=story.at, state=WorkerState.NO_DRIVER, since=story.boottime, code=12)
    story.take(down)
    assert story.open() == set()
    story.pci(0, driver="")
    assert story.open() == {("presence.driver_not_loaded", "")}


def test_a_crash_is_remembered_and_counted() -> None:
    """The worker died: a warning for a minute, the counter for good."""
    story = Story().started(1)
    story.take(
        WorkerChanged(
            at=story.at, state=WorkerState.CRASHED, since=story.boottime, detail="SIGSEGV", restart_reason="crashed"
        )
    )
    assert ("presence.nvml_crashed", "") in story.open()
    assert story.node.nvml.restarts == {"crashed": 1}
    story.session(1)
    story.opened(0)
    story.running(61, 0)
    assert story.open() == set()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (16, "presence.gpu_needs_reset"),
        (8, "presence.insufficient_power"),
        (11, "presence.irq_trouble"),
        (14, "presence.inforom_corrupt"),
        (4, "presence.access_lost"),
        (28, "presence.gpu_lost"),
    ],
)
def test_return_codes_have_their_own_findings(code: int, kind: str) -> None:
    """What NVML says about a whole GPU is the finding of that name."""
    story = Story().started(2)
    story.failed(1, code)
    assert story.open() == {(kind, uuid(1))}


@pytest.mark.parametrize("code", [2, 3, 999_999])
def test_a_code_that_proves_nothing_is_unknown_health_and_no_finding(code: int) -> None:
    """Never guess: an answer without a meaning for the whole GPU is not a fault and not health."""
    story = Story().started(2)
    story.failed(1, code)
    assert story.open() == set()
    assert story.gpu(1).health is Health.UNKNOWN


def test_expected_gpus_that_were_never_seen_are_missing() -> None:
    """With `expected_gpus` a host that never saw its eighth card says so, without a name for it."""
    from msgspec.structs import replace

    story = Story()
    story.node = replace(story.node, settings=replace(story.node.settings, expected_gpus=3))
    story.started(2)
    assert ("presence.gpu_missing", "") in story.open()


def test_paused_is_said_of_gpus_that_answered_only() -> None:
    """A quiet period hides no fault: a lost GPU stays lost while it is left alone."""
    story = Story().started(2)
    story.failed(1, 15)
    for number in (0, 1):
        story.take(PausedGpu(at=story.at, index=number, bdf=bdf(number), until=story.boottime + 300, reason="quiet"))
    assert story.gpu(0).presence is Presence.PAUSED
    assert story.gpu(0).readings.core_celsius is Missing.PAUSED
    assert story.gpu(1).presence is Presence.LOST


def test_a_driver_exchanged_under_a_session_asks_for_a_new_one() -> None:
    """The module's version changed: the session in our hands talks to a driver that is gone."""
    story = Story().started(1)
    story.pci(0, version="590.2")
    assert [command.reason for command in story.commands if hasattr(command, "reason")] == ["driver_reload"]


def test_boot_id_of_events_is_the_observation_s() -> None:
    """History says in which boot it happened."""
    story = Story().started(1)
    story.failed(0, 15)
    assert story.events[-1].boot_id == BOOT


def test_static_readings_come_back_with_a_silent_gpu() -> None:
    """What the static lane read at start is shown again after a silence, though it is not read again."""
    story = Story().started(1)
    story.sample(0, Lane.STATIC, power_limit_max_watts=700.0)
    story.wait(10)
    assert story.gpu(0).readings.power_limit_max_watts is Missing.TIMED_OUT
    story.sample(0)
    assert story.gpu(0).readings.power_limit_max_watts == 700.0


@pytest.mark.parametrize("code", [17, 999])
def test_a_dead_card_is_lost_though_its_code_could_mean_lost_access(code: int) -> None:
    """Configuration space that reads all ones, or the driver's own word: the container is not to blame."""
    story = Story().started(1)
    story.take(
        PciScanned(at=story.at, readable=True, devices=(PciDevice(bdf=bdf(0), driver="nvidia", config_readable=False),))
    )
    story.session(1)
    story.failed(0, code, named=False)
    assert story.gpu(0).presence is Presence.LOST
    story = Story().started(1)
    story.xid(0, 79)
    story.session(1)
    story.failed(0, code, named=False)
    assert story.gpu(0).presence is Presence.LOST


@pytest.mark.parametrize("code", [17, 999])
def test_a_lone_card_that_is_fine_on_the_bus_is_out_of_reach_not_dead(code: int) -> None:
    """A host with one GPU whose container lost its device rules."""
    story = Story().started(1)
    story.session(1)
    story.failed(0, code, named=False)
    assert story.gpu(0).presence is Presence.ACCESS_LOST


def test_unknown_without_a_bus_to_ask_is_lost_but_operating_system_is_not() -> None:
    """999 for one card is a fallen one as a rule; 17 is about the operating system's word, never the card's."""
    for code, presence in ((999, Presence.LOST), (17, Presence.ACCESS_LOST)):
        story = Story()
        story.session(1)
        story.opened(0)
        story.session(1)
        story.failed(0, code, named=False)
        assert story.gpu(0).presence is presence


def test_a_card_given_to_another_driver_is_followed() -> None:
    """Unbound from us: info at once where the bus says so, a new session after two looks, the others never in doubt."""
    story = Story().started(3)
    devices = tuple(PciDevice(bdf=bdf(n), driver="vfio-pci" if n == 1 else "nvidia") for n in range(3))
    scan = PciScanned(at=story.at, readable=True, devices=devices, module_version="580.1")
    story.take(scan)
    story.failed(1, 15)
    assert story.open() == {("presence.bound_elsewhere", uuid(1))}
    assert story.commands == []
    story.take(scan)
    assert story.commands == [ReopenNvml("topology")]
    story.session(2)
    story.opened(0)
    story.opened(2, index=1)
    story.take(scan)
    assert story.commands == [ReopenNvml("topology")]
    assert story.gpu(2).index == 2
    assert story.open() == {("presence.bound_elsewhere", uuid(1))}
    story.pci(0, 1, 2)  # and back
    assert story.gpu(1).presence is not Presence.LOST
    story.pci(0, 1, 2)
    assert story.commands == [ReopenNvml("topology")] * 2
    story.session(3)
    for number in range(3):
        story.opened(number)
    assert story.open() == set()


def test_a_card_that_is_plugged_in_is_opened_by_a_new_session() -> None:
    """A new device with our driver is no stranger that never answered: the session is older than it."""
    story = Story().started(2)
    story.pci(0, 1, 2)
    assert set(story.node.gpus) == {uuid(0), uuid(1)}
    story.pci(0, 1, 2)
    assert story.commands == [ReopenNvml("topology")]
    assert story.open() == set()


def test_a_driver_that_is_unloaded_is_no_change_of_topology() -> None:
    """Without the module nothing is bound; the session ends by itself."""
    story = Story().started(2)
    scan = PciScanned(at=story.at, readable=True, devices=tuple(PciDevice(bdf=bdf(n), driver="") for n in range(2)))
    story.take(scan)
    story.take(scan)
    assert story.commands == []


def test_a_sleeping_card_is_left_alone_and_nobodys_fault() -> None:
    """It counts as accounted for; nothing is judged about it, and the host is as well as its other cards."""
    story = Story().started(2)
    story.session(2)
    story.opened(0)
    story.sample(0)
    story.take(GpuAsleep(at=story.at, index=1, bdf=bdf(1)))
    story.wait(1)
    assert story.gpu(1).presence is Presence.ASLEEP
    assert (story.gpu(1).health, story.node.health) == (Health.UNKNOWN, Health.HEALTHY)
    assert story.gpu(1).readings.core_celsius is Missing.PAUSED
    assert story.open() == set()
    story.opened(1)
    story.sample(1)
    story.wait(1)
    assert story.gpu(1).health is Health.HEALTHY


def test_a_card_that_slept_from_the_start_gets_its_name_when_it_wakes() -> None:
    """Known by its address until then, never lost."""
    story = Story()
    story.pci(0, 1)
    story.session(2)
    story.opened(0)
    story.take(GpuAsleep(at=story.at, index=1, bdf=bdf(1)))
    story.wait(1)
    assert story.node.gpus[f"PCI-{bdf(1)}"].presence is Presence.ASLEEP
    assert story.open() == set()
    story.opened(1)
    assert set(story.node.gpus) == {uuid(0), uuid(1)}


def test_versions_that_differ_are_told_once_a_session_is_newer_than_the_module() -> None:
    """A session from before the exchange is only old; the one after it says what is so."""
    story = Story().started(1)
    story.pci(0, version="999.1")
    assert story.commands == [ReopenNvml("driver_reload")]
    assert story.open() == set()
    story.wait(2)
    story.session(1, driver="580.1")
    story.opened(0)
    assert story.open() == {("presence.library_mismatch", "")}
    assert story.node.incidents["presence.library_mismatch", ""].evidence["module_version"] == "999.1"
    story.pci(0)
    story.wait(1)
    assert story.open() == set()
