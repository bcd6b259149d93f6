"""Exit codes of the `farm` command, and the errors that carry them to the user without a traceback."""

from __future__ import annotations

import errno

COMPLETE = 0
FAILED = 1
USAGE = 2
PREFLIGHT = 3
RESUMABLE = 75  # EX_TEMPFAIL: stopped by SIGTERM, SIGUSR1 or SIGHUP; the same command goes on
INTERRUPTED = 130
CHILD_FAULT = 70
"""EX_SOFTWARE, of an attempt's process alone: the farm failed in it and not the trial."""

STORAGE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.ENOLCK,
    errno.ESHUTDOWN,  # Lustre has evicted this node
)
"""Errors of `OSError` that a file system gives and not a mistake in a program."""
PLACE_ERRORS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
"""Something else stands where the ledger or the report is to be written."""


class FarmError(Exception):
    """A problem that the user can mend; its text is the whole message."""

    exit_code = FAILED


class UsageError(FarmError):
    """A wrong word on the command line or in a study file."""

    exit_code = USAGE


class PreflightError(FarmError):
    """Something the run needs is not there: data, a lock, a writable results directory."""

    exit_code = PREFLIGHT
