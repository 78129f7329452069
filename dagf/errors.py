"""Errors for people: one line that names the file and the remedy."""

import difflib
import errno
import os
import reprlib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave us; the command line prints it and exits with status 2."""


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return `name` if it is one of `choices`; else raise a `UserError` with the nearest one."""
    known = sorted(choices)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"unknown {kind} {shown(name)}: {hint}known: {', '.join(known)}")


def shown(value: object) -> str:
    """Return a value for a message: in one line, and short."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    return short.repr(value)


PLACE_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ESTALE),  # of a disk that fails, of one on the network that is gone
)
CUT_SHORT = ("requested and", "when writing image file")  # NumPy's and Pillow's words for it


def place_fault(error: Exception) -> str:
    """Return what is wrong with a disk, folder or name, in a few words; '' for any other error.

    Libraries that write by themselves (safetensors, FAISS) raise errors of their own, which quote
    the system's words.
    """
    if isinstance(error, OSError) and any(part in str(error) for part in CUT_SHORT):
        return "the disk took only a part of it"
    return next((words for words in map(os.strerror, PLACE_FAULTS) if words in str(error)), "")
