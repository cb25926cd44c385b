"""Demonstrations: solved training examples before an input, in training and in evaluation.

With K of them (`Data.demonstrations`, `eval --shots=K`) the text of an example is

    INPUT_1 answer: TARGET_1; ... INPUT_K answer: TARGET_K; INPUT

as in the 1-shot form of ProMoT (Wang et al. 2024, https://arxiv.org/abs/2211.00635), which does not
say how it separates the parts. Which ones they are is a function of the seed, the task's name and
the example's number among those that are kept, so that neither a stop nor the number of hosts
changes any. They are examples that the run trains on (`eval`: of the split `train`), never of
another split that is scored, and never the example itself or one with the same input. Where a row
is too short, whole demonstrations are dropped, the first ones first, before the example is cut.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prompt_jax.data import token_cache
from prompt_jax.data.rows import Behind, Column, Example, Tokens
from prompt_jax.errors import UserError
from prompt_jax.splits import typed


@dataclass(frozen=True)
class Demonstrations:
    """What stands before the examples of a split.

    Attributes:
      count: how many before each.
      seed: of the draw.
      pool: the examples that are shown, by task.
    """

    count: int = 0
    seed: int = 0
    pool: Mapping[str, Sequence[Example]] = field(default_factory=dict)

    def numbers(self, task: str, examples: Sequence[Example]) -> np.ndarray:
        """int64 [n, count]: which examples of the pool stand before each, in their order.

        Raises:
          UserError: the task has too few examples with another input.
        """
        pool = self.pool.get(task, [])
        inputs = np.sort(np.fromiter(map(hash, Column(pool, "inputs")), np.int64, len(pool)))
        chosen = np.zeros((len(examples), self.count), np.int64)
        for number, example in enumerate(examples):
            first, last = (np.searchsorted(inputs, hash(example["inputs"]), s) for s in SIDES)
            others = len(pool) - int(last - first)
            if others < self.count:
                raise UserError(
                    f"{self.count} demonstrations (Data.demonstrations, --shots)",
                    f"task {typed(task)!r} has {others} training examples with another input",
                    "give fewer",
                )
            chosen[number] = self._draw(task, number, example, pool)
        return chosen

    def texts(self, task: str, examples: Sequence[Example]) -> Iterator[list[str]]:
        """The texts before each example, in their order."""
        if not self.count:
            yield from ([] for _ in examples)
            return
        pool = self.pool.get(task, [])
        for chosen in self.numbers(task, examples):
            yield [written(pool[number]) for number in chosen]

    def _draw(self, task: str, number: int, example: Example, pool: Sequence[Example]) -> list[int]:
        rng = np.random.default_rng([self.seed, zlib.crc32(task.encode()), number])
        drawn: list[int] = []
        while len(drawn) < self.count:
            at = int(rng.integers(len(pool)))
            if at not in drawn and pool[at]["inputs"] != example["inputs"]:
                drawn.append(at)
        return drawn


SIDES = ("left", "right")


def written(example: Example) -> str:
    """A demonstration as text; what it stands before follows at once."""
    return f"{example['inputs']} answer: {example['targets']}; "


class Written(Sequence):
    """Some examples of a pool as demonstrations, by number."""

    def __init__(self, pool: Sequence[Example], numbers: np.ndarray):
        self._pool, self._numbers = pool, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number):
        return written(self._pool[int(self._numbers[number])])


def before(
    inputs: Tokens | Behind, pool: Sequence[Example], chosen: np.ndarray, vocabulary, length: int
) -> Behind:
    """Rows of up to `length` tokens: the chosen demonstrations of the pool before each input."""
    numbers, places = np.unique(chosen, return_inverse=True)
    shown = token_cache.encoded(Written(pool, numbers), vocabulary)
    return Behind(inputs, shown, places.reshape(chosen.shape), length)
