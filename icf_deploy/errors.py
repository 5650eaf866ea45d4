"""One exception per kind of failure, and the exit status that the command line gives for it.

Every message names the thing, what was expected, what was found, and what to type next.
"""

from __future__ import annotations


class IcfError(Exception):
    """Base of every error that icf-deploy raises on purpose."""

    exit_status = 1


class WorkError(IcfError):
    """The work itself failed: a full disk, an existing output, training data that is not there."""


class PhotoError(WorkError):
    """A photo that cannot be read, or is not one."""


class ParityError(WorkError):
    """An exported graph that does not agree with PyTorch within the stated bound."""


class UsageError(IcfError):
    """Arguments that make no sense together."""

    exit_status = 2


class BudgetError(IcfError):
    """Nothing stays inside the drift budget."""

    exit_status = 3


class ArtefactError(IcfError):
    """An artefact that does not fit: wrong version, another network, a format the engine would not execute."""

    exit_status = 4


class CheckpointError(ArtefactError):
    """A checkpoint whose tensors are not those of a known network."""


class EngineUnavailableError(IcfError):
    """An engine that this machine cannot run as it is."""

    exit_status = 5


class IntegrityError(IcfError):
    """A bundle that cannot be read, or whose bytes are not the ones that were hashed."""

    exit_status = 6


INTERRUPTED_EXIT_STATUS = 130
