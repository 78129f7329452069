"""The processes that work together: here one; those that torchrun started are in `torchrun`."""

from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes that train, extract or search together; `rank` is this one's number."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come here."""

    def total(self, values: T) -> T:
        """Return the sum of the processes' tensors, in place."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, whatever can be pickled, in the order of their ranks."""
        return [value]


SINGLE = Group()
