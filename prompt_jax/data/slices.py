"""Part of a split, written as TensorFlow Datasets writes it: `train[:500]`, `train[-10%:]`.

https://www.tensorflow.org/datasets/splits: bounds are examples or percent, of which the latter are
rounded to the nearest example; negative ones count from the end.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from prompt_jax.data.rows import Example, gathered
from prompt_jax.errors import UserError

_SLICE = re.compile(r"(?P<split>[^][]+)\[(?P<start>-?\d+%?)?:(?P<end>-?\d+%?)?\]")


class Part(NamedTuple):
    """Where a part of a split begins and ends; None: with the split."""

    start: str | None
    end: str | None

    def of(self, examples: Iterator[Example], where: str) -> Iterator[Example]:
        """The part's examples, in their order; UserError at its end if there are none."""
        empty = True
        for example in self._of(examples):
            empty = False
            yield example
        if empty:
            raise UserError(where, "has no examples", "give a part that the split has")

    def _of(self, examples: Iterator[Example]) -> Iterator[Example]:
        bounds = (self.start, self.end)
        if all(bound is None or bound.isdigit() for bound in bounds):
            start, end = (None if bound is None else int(bound) for bound in bounds)
            yield from itertools.islice(examples, start, end)
            return
        every = gathered(examples)
        start, end = (None if bound is None else _place(bound, len(every)) for bound in bounds)
        for number in range(len(every))[slice(start, end)]:
            yield every[number]


def _place(bound: str, size: int) -> int:
    """
    >>> _place("-10%", 200), _place("7", 200)
    (-20, 7)
    """
    return round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)


def sliced(split: str) -> tuple[str, Part | None]:
    """The name of the whole split, and the part of it that is meant.

    >>> sliced("train[:90%]")
    ('train', Part(start=None, end='90%'))
    >>> sliced("test")
    ('test', None)

    Raises:
      UserError: it has brackets, but no such part in them.
    """
    if "[" not in split and "]" not in split:
        return split, None
    match = _SLICE.fullmatch(split)
    if match is None:
        remedy = "write train, train[:500] or train[-10%:]"
        raise UserError(f"split {split!r}", "is no split, and no part of one", remedy)
    return match["split"], Part(match["start"], match["end"])
