"""The one tree of exceptions; a class per thing a caller does differently.

GpuwardenError
├── ConfigError          the configuration cannot be used: every problem with its path (exit 78)
├── InputError           a file or argument the user gave is not what it should be (exit 2)
├── DaemonUnreachableError  no daemon answers on the status socket (retryable)
├── JournalError         the journal cannot be opened or written (the daemon goes on without it)
└── ActuatorError        whoever brings effects about does not answer: what was asked may be done or not
"""

from __future__ import annotations


class GpuwardenError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 1


class ConfigError(GpuwardenError):
    """The configuration cannot be used. `problems` holds (key path, what is wrong) for every problem found."""

    exit_code = 78  # EX_CONFIG

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{path}: {text}" for path, text in problems))
        self.problems = problems


class InputError(GpuwardenError):
    """Something the user handed us is not what it should be."""

    exit_code = 2


class DaemonUnreachableError(GpuwardenError):
    """No daemon answered on the status socket."""

    exit_code = 3


class JournalError(GpuwardenError):
    """The journal cannot be opened or written."""


class ActuatorError(GpuwardenError):
    """The actuator did not answer: what was asked may have been done or not."""
