"""Errors for people: one line that names the file and the remedy."""

import difflib
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
