"""Errors that end a run with a documented exit code and one line instead of a traceback."""


class MtrlError(Exception):
    """An error the user is told about in one line; `exit_code` is what the command returns."""

    exit_code = 70
    reported: bool = False
    """Whether another process tells the user."""


class BadInput(MtrlError):
    """A flag, configuration, run directory or checkpoint that cannot be used."""

    exit_code = 2


class Diverged(MtrlError):
    """A tensor that must be finite is not."""

    exit_code = 3


class WorkerFailure(MtrlError):
    """An environment worker raised, died or hung."""

    exit_code = 4


class RankFailure(MtrlError):
    """Another process of a data-parallel run ended."""

    exit_code = 4


class StorageFailure(MtrlError):
    """A file of the run directory could not be written."""

    exit_code = 5
