"""The room against a real shared object, found the ordinary way and called through ctypes as a driver's is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.model.gpu import Lane
from gpuwarden.nvml.codes import WHOLE_GPU, missing_of

pytestmark = pytest.mark.real

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def library_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("fakenvml")
    source, target = SUPPORT / "fakenvml.c", folder / "libnvidia-ml.so.1"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", target, source]
    subprocess.run(command, check=True, timeout=60)
    return folder


def probe(folder: Path, script: str = "") -> dict[str, Any]:
    """Return what a fresh process sees through the library in that folder, told to answer as `script` says."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKENVML": script}
    done = subprocess.run(
        [sys.executable, SUPPORT / "nvmlprobe.py"], env=environ, capture_output=True, check=True, timeout=30
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lane_of(seen: dict[str, Any], lane: Lane, gpu: int = 0) -> dict[str, Any]:
    """Return one lane of one GPU."""
    found: dict[str, Any] = seen["gpus"][gpu]["lanes"][lane.value]
    return found


def test_a_library_in_the_search_path_is_used_as_it_is(library_dir: Path) -> None:
    """Versions, identity and readings come in base units; symbols it lacks are readings it does not support."""
    seen = probe(library_dir)
    assert seen["session"] | {"detail": ""} == {
        "code": 0,
        "where": "",
        "detail": "",
        "driver": "590.48.01",
        "nvml": "13.590.48.01",
        "cuda": "13.1",
        "count": 2,
    }
    first = seen["gpus"][0]["identity"]
    assert (first["uuid"], first["bdf"], first["name"], first["minor"]) == (
        "GPU-0",
        "0000:3b:00.0",
        "NVIDIA Fake 4090",
        7,
    )
    fast, normal = lane_of(seen, Lane.FAST), lane_of(seen, Lane.NORMAL)
    assert (fast["fault"], fast["rejected"]) == (None, [])
    expected = {
        "core_celsius": 41,
        "margin_celsius": -3,
        "power_watts": 312.5,
        "memory_clock_hertz": 10_501_000_000,
        "gpu_utilization_ratio": 0.97,
        "clocks_event_reasons": 4,
        "event_hw_thermal_seconds": 5.5,
        "memory_reserved_bytes": 50,
        "energy_joules": 6e9,
        "memory_celsius": "not_supported",
    }
    assert {name: fast["values"][name] for name in expected} == pytest.approx(expected)
    assert normal["values"]["fan_speed_ratio"] == pytest.approx([0.40, 0.41])
    assert normal["values"]["fan_speed_rpm"] == "not_supported"
    assert lane_of(seen, Lane.STATIC)["values"]["margin_limit_shutdown_celsius"] == -8
    assert set(lane_of(seen, Lane.PCIE)["values"].values()) == {"not_supported"}


def test_text_that_is_no_text_and_a_temperature_of_the_sun_cost_only_themselves(library_dir: Path) -> None:
    """The second card's name is no UTF-8 and its sensor is broken: it has a uuid and all its other readings."""
    seen = probe(library_dir)
    second = seen["gpus"][1]["identity"]
    assert (second["uuid"], second["bdf"], second["name"]) == ("GPU-1", "0000:3c:00.0", "")
    fast = lane_of(seen, Lane.FAST, gpu=1)
    assert (fast["values"]["core_celsius"], fast["rejected"]) == ("implausible", ["core_celsius"])
    assert fast["values"]["power_watts"] == 312.5


@pytest.mark.parametrize("code", [1, 2, 3, 4, 10, 13, 15, 16, 17, 27, 999, 4242])
def test_any_code_from_one_call_is_a_reason_or_a_fault(library_dir: Path, code: int) -> None:
    """One function answers badly: that reading says why, or the lane says that the GPU is gone; never a 0."""
    fast = lane_of(probe(library_dir, f"nvmlDeviceGetPowerUsage={code}"), Lane.FAST)
    if code in WHOLE_GPU:
        assert (fast["fault"], fast["where"]) == (code, "nvmlDeviceGetPowerUsage")
        assert "power_watts" not in fast["values"]
    else:
        assert fast["fault"] is None
        assert fast["values"]["power_watts"] == missing_of(code).value
    assert fast["values"]["core_celsius"] == 41


@pytest.mark.parametrize("code", [15, 999])
def test_a_card_without_a_handle_leaves_its_sibling_alone(library_dir: Path, code: int) -> None:
    """The usual answers for a card off the bus."""
    seen = probe(library_dir, f"second={code}")
    assert seen["gpus"][1] == {"handle": code}
    assert lane_of(seen, Lane.FAST)["values"]["power_watts"] == 312.5


@pytest.mark.parametrize("code", [4, 9, 17, 18, 999, 4242])
def test_a_session_that_does_not_open_is_a_code(library_dir: Path, code: int) -> None:
    """The library has no nvmlErrorString either: the words are the binding's own."""
    session = probe(library_dir, f"nvmlInitWithFlags={code}")["session"]
    assert (session["code"], session["where"], session["count"]) == (code, "nvmlInitWithFlags", 0)
    assert session["detail"]


def test_a_library_that_is_none_is_not_found(tmp_path: Path) -> None:
    """A file of that name which is no library, as a broken installation leaves it: LIBRARY_NOT_FOUND, not a crash."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not an ELF file")
    assert probe(tmp_path)["session"]["code"] == 12
