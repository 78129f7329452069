"""Errors for people, and texts that fit into their one line."""

import difflib
import errno
import os
import re
import reprlib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave us: one line that names the file and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """`name` if it is one of `choices`; else a `UserError` that suggests the nearest one."""
    known = sorted(choices)
    if name in known:
        return name
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    said = f"'{name}'" if name.isprintable() and len(name) <= 100 else shown(name)
    raise UserError(f"unknown {kind} {said}: {hint}known: {', '.join(known)}")


def printable(text: str, lines: bool = False) -> str:
    """`text` for a terminal: what would move its cursor, or is no text, by its number; the ends of `lines` may stay."""
    kept = "\n" if lines else ""
    return "".join(one if one.isprintable() or one == kept else ascii(one)[1:-1] for one in text)


def shown(value: object) -> str:
    """`value` for a message: in one line, and short whatever it holds (a list of lists of lists, in a hostile file)."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlist, short.maxdict = 2, 80, 80, 4, 4
    try:
        return short.repr(value)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        return "a number of very many digits"


# What can be wrong with the place we write to, as against a fault in the work itself.
_PLACE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_SHORT = re.compile(
    r"\d+ requested and \d+ written|when writing image file"
)  # NumPy, Pillow: they lose the reason


def place_fault(error: Exception) -> str:
    """What is wrong with the place that could not be written to, in a few words; '' for any other error.

    Libraries that write by themselves (safetensors, FAISS) raise errors of their own, which quote the system's words.
    """
    code = error.errno if isinstance(error, OSError) else None
    words = next(
        (
            os.strerror(one)
            for one in _PLACE_FAULTS
            if code == one or os.strerror(one) in str(error)
        ),
        "",
    )
    return words or ("the disk took only a part of it" if _SHORT.search(str(error)) else "")


def name_fault(error: OSError) -> str:
    """What no file of any system could be, in a few words and with its name cut short; '' for any other error."""
    wrong = error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR) and error.filename
    return (
        f"{shown(os.fsdecode(error.filename))} cannot be a file or folder: {error.strerror}"
        if wrong
        else ""
    )
