"""Names of boards in captures."""

from __future__ import annotations

import pytest

from gpuwarden.capture_mask import Masker

UUID = "GPU-3ce3a4a5-58ac-4f07-b4b5-3ee9d7a1b3f3"
SERIAL = "1653223000001"


def test_one_name_becomes_one_other_name_of_its_form() -> None:
    """A UUID stays a UUID and a serial a serial, equal names stay equal, different ones different."""
    masker = Masker()
    found = masker.masked([{"uuid": UUID, "serial": SERIAL}, {"uuid": UUID, "serial": "1653223000002"}])
    assert found[0]["uuid"] == found[1]["uuid"] != UUID
    assert found[0]["serial"] != found[1]["serial"]
    assert len(found[0]["uuid"]) == len(UUID)
    assert found[0]["uuid"].startswith("GPU-")
    assert found[0]["serial"].isdigit()
    assert len(found[0]["serial"]) == len(SERIAL)


def test_names_in_free_text_become_the_same_other_names() -> None:
    """Kernel lines, details and keys are searched too; a number that only contains a serial is left alone."""
    masker = Masker()
    identity = masker.masked({"identity": {"uuid": UUID, "serial": SERIAL}})["identity"]
    line = masker.masked({"text": f"{UUID} board {SERIAL}: {SERIAL}99", UUID: [f"serial={SERIAL}"]})
    assert line["text"] == f"{identity['uuid']} board {identity['serial']}: {SERIAL}99"
    assert line[identity["uuid"]] == [f"serial={identity['serial']}"]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"uuid": "PCI-0000:3b:00.0"}, id="address-for-a-name"),
        pytest.param({"uuid": "", "serial": ""}, id="driver-does-not-say"),
        pytest.param({"uuid": None}, id="host"),
        pytest.param({"text": "GPU-bound task 12345678 on 0000:3b:00"}, id="text-without-names"),
        pytest.param({"total": 1653223000001, "rate": 0.5, "up": True}, id="numbers"),
    ],
)
def test_what_names_no_board_stays(value: object) -> None:
    """Addresses, absent names and ordinary text are not touched."""
    assert Masker().masked(value) == value


def test_a_mig_instance_keeps_its_kind() -> None:
    """MIG UUIDs are names of boards too."""
    found = Masker().masked({"text": "MIG-5c7d4b1e-0000-5555-8888-123456789abc"})["text"]
    assert found.startswith("MIG-")
    assert "5c7d4b1e" not in found
