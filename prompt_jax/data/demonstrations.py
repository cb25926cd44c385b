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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prompt_jax.data import token_cache
from prompt_jax.errors import UserError

Examples = list[dict[str, Any]]


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
    pool: dict[str, Examples] = field(default_factory=dict)

    def of(self, task: str, examples: Examples) -> list[list[str]]:
        """The texts before each example, in their order.

        Raises:
          UserError: the task has too few examples with another input.
        """
        if not self.count:
            return [[] for _ in examples]
        pool = self.pool.get(task, [])
        same = Counter(shown["inputs"] for shown in pool)
        chosen = []
        for number, example in enumerate(examples):
            others = len(pool) - same[example["inputs"]]
            if others < self.count:
                raise UserError(
                    f"{self.count} demonstrations (Data.demonstrations, --shots)",
                    f"task {task!r} has {others} training examples with another input",
                    "give fewer",
                )
            chosen.append([written(pool[i]) for i in self._draw(task, number, example, pool)])
        return chosen

    def _draw(self, task: str, number: int, example: dict[str, Any], pool: Examples) -> list[int]:
        rng = np.random.default_rng([self.seed, zlib.crc32(task.encode()), number])
        drawn: list[int] = []
        while len(drawn) < self.count:
            at = int(rng.integers(len(pool)))
            if at not in drawn and pool[at]["inputs"] != example["inputs"]:
                drawn.append(at)
        return drawn


def written(example: dict[str, Any]) -> str:
    """A demonstration as text; what it stands before follows at once."""
    return f"{example['inputs']} answer: {example['targets']}; "


def prepended(
    inputs: Sequence[np.ndarray], shown: Sequence[Sequence[str]], vocabulary, length: int
) -> tuple[list[np.ndarray], int]:
    """int32 arrays of up to `length` tokens, the demonstrations before each of `inputs`.

    Returns also how many demonstrations were dropped for lack of room.
    """
    texts = list(dict.fromkeys(text for some in shown for text in some))
    ids = dict(zip(texts, token_cache.encoded(texts, vocabulary), strict=True))
    arrays, dropped = [], 0
    for own, some in zip(inputs, shown, strict=True):
        parts = [ids[text].astype(np.int32) for text in some]
        while parts and sum(map(len, parts)) + len(own) > length:
            parts, dropped = parts[1:], dropped + 1
        arrays.append(np.concatenate([*parts, own]))
    return arrays, dropped
