"""Errors a user can cause and mend; the command line prints their one line and no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The work cannot be done: one line with what, where and what to do. Exit status 1."""

    exit_status = 1


class ConfigError(UserError):
    """The command line or configuration is wrong. Exit status 2."""

    exit_status = 2


def nearest(name: str, valid: Iterable[str], count: int = 1) -> str:
    """A phrase that names the nearest valid spellings of `name`, for the end of an error line.

    Returns `"did you mean 'x'?"`, or the list of valid names when none is near.
    """
    names = sorted(map(str, valid))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"valid names: {shown}"
