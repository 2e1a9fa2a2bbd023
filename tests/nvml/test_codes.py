"""What each return code means: spelled out here, so that a row of the table cannot change unseen."""

from __future__ import annotations

import pynvml
import pytest

from gpuwarden.model.gpu import Missing
from gpuwarden.nvml.codes import WHOLE_GPU, code_of, missing_of, name_of


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, Missing.NOT_SUPPORTED),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, Missing.NOT_SUPPORTED),
        (pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, Missing.NOT_SUPPORTED),
        (pynvml.NVML_ERROR_DEPRECATED, Missing.NOT_SUPPORTED),
        (pynvml.NVML_ERROR_NO_PERMISSION, Missing.NO_PERMISSION),
        (pynvml.NVML_ERROR_TIMEOUT, Missing.TIMED_OUT),
        (pynvml.NVML_ERROR_GPU_IS_LOST, Missing.GPU_LOST),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, Missing.UNKNOWN),
        (pynvml.NVML_ERROR_NOT_READY, Missing.UNKNOWN),
        (pynvml.NVML_ERROR_UNKNOWN, Missing.UNKNOWN),
        (4242, Missing.UNKNOWN),
    ],
)
def test_a_code_is_one_reason(code: int, missing: Missing) -> None:
    """Absence has the reason the driver gave; a code this release does not know is UNKNOWN, never "not supported"."""
    assert missing_of(code) is missing


def test_an_argument_the_driver_does_not_know_is_unsupported() -> None:
    """INVALID_ARGUMENT where the call chose a field, a sensor or a link; other codes mean what they always mean."""
    assert missing_of(pynvml.NVML_ERROR_INVALID_ARGUMENT, choice=True) is Missing.NOT_SUPPORTED
    assert missing_of(pynvml.NVML_ERROR_UNKNOWN, choice=True) is Missing.UNKNOWN


def test_the_codes_that_are_about_a_whole_gpu() -> None:
    """Session gone, no power, no driver, no interrupts, bad InfoROM, lost, reset required, not found: no others, and
    not UNKNOWN, which one reading may answer for itself."""
    assert {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_INSUFFICIENT_POWER,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_IRQ_ISSUE,
        pynvml.NVML_ERROR_CORRUPTED_INFOROM,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    } == WHOLE_GPU


@pytest.mark.parametrize(("error", "code"), [(pynvml.NVMLError(15), 15), (OSError(15, "x"), 999), (ValueError(), 999)])
def test_only_an_error_of_nvml_has_a_code(error: Exception, code: int) -> None:
    """An errno is no return code, however it is spelled."""
    assert code_of(error) == code


def test_a_code_is_told_with_its_name() -> None:
    """A person at three in the morning has no nvml.h at hand."""
    assert name_of(12) == "12 (LIBRARY_NOT_FOUND)"
    assert name_of(12345) == "12345"
