"""PCIe errors: of the GPU itself, of the ports above it, by counter and by kernel line, and which GPUs they concern."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model.finding import Finding, Unsure
from gpuwarden.model.observation import PciDevice, PciPort, PciScanned
from support.story import Story, bdf, uuid

KIND = "links.pcie_aer"
ROOT, PORT = "0000:00:01.0", "0000:0f:00.0"
CLEAN = {"aer_correctable": 40, "aer_nonfatal": 3, "aer_fatal": 0}


def scan(story: Story, *, gpus: int = 2, **changed: dict[str, int]) -> None:
    """Look at a bus on which all GPUs share a root port and GPU 0 has a switch port; `root`, `port`, `gpu` change."""
    root = PciPort(bdf=ROOT, **(CLEAN | changed.get("root", {})))
    port = PciPort(bdf=PORT, **(CLEAN | changed.get("port", {})))
    devices = tuple(
        PciDevice(
            bdf=bdf(number),
            driver="nvidia",
            upstream=(root, port) if number == 0 else (root,),
            **(CLEAN | (changed.get("gpu", {}) if number == 0 else {})),
        )
        for number in range(gpus)
    )
    story.take(PciScanned(at=story.at, readable=True, devices=devices, module_version="580.1"))


def concerned(story: Story) -> dict[str | None, Any]:
    """Return the device blamed, by GPU."""
    return {v.uuid: v.evidence["device"] for v in verdicts(story.node) if isinstance(v, Finding) and v.kind == KIND}


def watched() -> Story:
    story = Story().started(2)
    scan(story)
    return story


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({}, {}, id="what-stood-there-is-history"),
        pytest.param({"gpu": {"aer_nonfatal": 4}}, {uuid(0): bdf(0)}, id="the-gpu-itself"),
        pytest.param({"port": {"aer_fatal": 1}}, {uuid(0): PORT}, id="a-switch-port-concerns-the-gpu-below"),
        pytest.param({"root": {"aer_nonfatal": 4}}, {uuid(0): ROOT, uuid(1): ROOT}, id="a-root-port-concerns-all"),
        pytest.param({"port": {"aer_correctable": 70}}, {}, id="a-few-corrected"),
        pytest.param({"port": {"aer_correctable": 300}}, {uuid(0): PORT}, id="corrected-in-number"),
    ],
)
def test_counters_of_the_whole_path(changed: dict[str, Any], expected: dict[str, str]) -> None:
    """New errors anywhere between root complex and GPU are the GPU's finding, and name the place."""
    story = watched()
    story.running(61, 0, 1)
    scan(story, **changed)
    assert concerned(story) == expected


def test_a_kernel_line_of_a_bridge_is_about_the_gpus_below() -> None:
    """The event names the GPU, and the finding comes also where the kernel keeps no counters."""
    story = watched()
    story.line(f"pcieport {PORT}: AER: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer")
    assert concerned(story) == {uuid(0): PORT}
    event = next(event for event in story.events if event.name == "aer")
    assert (event.gpu, event.evidence["gpus_below"]) == (0, "0")
    story.line(f"pcieport {ROOT}: AER: PCIe Bus Error: severity=Corrected, type=Physical Layer")
    shared = next(event for event in reversed(story.events) if event.name == "aer")
    assert (shared.gpu, shared.evidence["gpus_below"]) == (None, "0, 1")


@pytest.mark.parametrize("how", [{"history": True}, {"from_kernel": False}])
def test_a_line_of_the_past_or_of_somebody_else_is_no_finding(how: dict[str, bool]) -> None:
    """Shown as an event; it says nothing about the link now."""
    story = watched()
    story.line(f"pcieport {PORT}: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer", **how)
    assert concerned(story) == {}


def test_a_corrected_line_alone_is_no_finding() -> None:
    """The log is rate-limited and counts for little: corrected errors are judged by their counter."""
    story = watched()
    for _ in range(100):
        story.line(f"pcieport {PORT}: AER: PCIe Bus Error: severity=Corrected, type=Physical Layer")
    assert concerned(story) == {}


def test_an_hour_without_errors_forgives() -> None:
    """The window is an hour, the clear time another: then the incident is over."""
    story = watched()
    scan(story, port={"aer_nonfatal": 4})
    story.wait(1)
    assert (KIND, uuid(0)) in story.open()
    for _ in range(360):
        story.boottime += 30.0
        scan(story, port={"aer_nonfatal": 4})
        story.wait(1)
    assert (KIND, uuid(0)) not in story.open()


def test_counters_that_can_no_longer_be_read_are_unsure_and_none_at_all_no_verdict() -> None:
    """A scan that hangs is not a clean bus; a kernel without counters is a blind spot."""
    story = watched()
    story.take(PciScanned(at=story.at, readable=False, devices=()))
    assert Unsure(kind=KIND, uuid=uuid(0)) in list(verdicts(story.node))
    without = Story().started(1)
    without.take(PciScanned(at=without.at, readable=False, devices=()))
    assert not [verdict for verdict in verdicts(without.node) if verdict.kind == KIND]
