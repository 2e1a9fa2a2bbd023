"""Opening a session: every failure is data."""

from __future__ import annotations

import pytest

from gpuwarden.model.observation import WorkerState
from gpuwarden.nvml.codes import state_of
from gpuwarden.nvml.session import Session, handle_of, open_session, text, use_library
from support.fakenvml import FakeLibrary, library


@pytest.mark.parametrize("code", [4, 9, 12, 17, 18, 999, 77])
def test_init_that_fails_is_its_code(code: int) -> None:
    """Nothing is raised; the caller sees which call refused and how."""
    with library(FakeLibrary({"nvmlInitWithFlags": code})):
        session = open_session()
    assert (session.code, session.where) == (code, "nvmlInitWithFlags")
    assert session.detail


def test_a_count_that_fails_is_a_session_that_failed() -> None:
    """Without a count there is nothing to walk."""
    with library(FakeLibrary({"nvmlDeviceGetCount_v2": 999})):
        session = open_session()
    assert (session.code, session.where, session.count) == (999, "nvmlDeviceGetCount_v2", 0)


def test_versions_are_optional() -> None:
    """A library without the version calls still has GPUs."""
    with library(FakeLibrary({"nvmlDeviceGetCount_v2": {"out": 8}})):
        assert open_session() == Session(count=8)


def test_the_cuda_version_is_major_and_minor() -> None:
    """13000 is 13.0."""
    functions = {"nvmlDeviceGetCount_v2": {"out": 1}, "nvmlSystemGetCudaDriverVersion_v2": {"out": 12_040}}
    with library(FakeLibrary(functions)):
        assert open_session().cuda == "12.4"


def test_a_handle_that_fails_is_a_code() -> None:
    """The usual answer for a card that fell off the bus is 999."""
    with library(FakeLibrary({"nvmlDeviceGetHandleByIndex_v2": 999})):
        assert handle_of(3) == (None, 999)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (9, WorkerState.NO_DRIVER),
        (12, WorkerState.NO_DRIVER),
        (18, WorkerState.LIBRARY_MISMATCH),
        (999, WorkerState.ACCESS_LOST),
        (4, WorkerState.ACCESS_LOST),
        (17, WorkerState.ACCESS_LOST),
    ],
)
def test_what_a_failed_init_says_about_the_host(code: int, state: WorkerState) -> None:
    """No driver, another driver, or no permission: three different findings."""
    assert state_of(code) is state


@pytest.mark.parametrize("found", ["GPU-é", "GPU-é".encode()])
def test_text_is_text_whichever_type_the_binding_gives(found: str | bytes) -> None:
    """Releases of the binding differ: some give bytes, and a name is a name."""
    assert text(lambda: found) == "GPU-é"


def test_text_that_is_no_text_is_nothing_said() -> None:
    """Bytes that are no UTF-8 make the binding itself raise: a name is never worth a GPU."""

    def broken() -> str:
        return b"\xff".decode()

    assert text(broken) == ""


def test_a_library_put_in_place_is_the_one_that_is_called() -> None:
    """Functions remembered of the library before are forgotten with it."""
    with library(FakeLibrary({"nvmlDeviceGetCount_v2": {"out": 8}})):
        assert open_session().count == 8
        use_library(FakeLibrary({"nvmlDeviceGetCount_v2": {"out": 2}}))
        assert open_session().count == 2
