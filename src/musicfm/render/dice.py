"""A random source that gives the same draws on any machine, with any version of Python or numpy.

Every purpose has its own stream, named by a path such as ("melody", "verse"), so that a change in
one place of a program leaves the draws of all others as they were.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from musicfm.seeds import derive_seed

T = TypeVar("T")


class Dice:
    """Draws of one purpose.

    Only ``random.Random.random`` is used, whose sequence Python guarantees for a given seed; what
    is made of it is plain arithmetic, without the C library's functions, which differ in the last
    bit from machine to machine.

    Args:
        path: names the stream.
    """

    def __init__(self, *path: int | str) -> None:
        self._path = path
        self.unit = random.Random(derive_seed(*path)).random
        """Draws from [0, 1)."""

    def child(self, *purpose: int | str) -> "Dice":
        """A stream of its own, whatever was drawn from this one."""
        return Dice(*self._path, *purpose)

    def uniform(self, low: float, high: float) -> float:
        """A number from [low, high)."""
        return low + (high - low) * self.unit()

    def triangular(self, width: float) -> float:
        """A number from (-width, width), near 0 more often than not."""
        return (self.unit() + self.unit() - 1.0) * width

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.unit() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of some options, all equally likely."""
        return options[int(self.unit() * len(options))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, as likely as its weight says."""
        total = 0.0  # not sum(), which rounds otherwise from Python 3.12 on
        for weight in weights.values():
            total += weight
        point = self.unit() * total
        for option, weight in weights.items():
            point -= weight
            if point < 0:
                return option
        return option

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in a random order."""
        left = list(options)
        return [left.pop(int(self.unit() * len(left))) for _ in range(len(left))]
