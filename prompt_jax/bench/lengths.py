"""Examples as long as those of real tasks, of random tokens: what a speed depends on, without data.

The quantiles are those of SuperGLUE's training sets in T5's pieces, as the tasks here write them,
cut to 512; of BoolQ and ReCoRD, of some hundred and some dozen rows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prompt_jax.data.rows import Rows, tokens_of
from prompt_jax.model.logprobs import EOS

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
FIRST_PIECE, LAST_PIECE = 3, 8000  # of random tokens; every vocabulary has them


class Examples(Protocol):
    """What examples are made of."""

    def examples(self, name: str, count: int, seed: int = 0) -> Rows: ...


@dataclass(frozen=True)
class Lengths:
    """How long the texts of a task are.

    Attributes:
      inputs: tokens at LEVELS, EOS included.
      targets: tokens of each target, EOS included; all are equally common.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    def examples(self, name: str, count: int, seed: int = 0) -> Rows:
        """`count` examples of random tokens."""
        rng = np.random.default_rng(seed)
        inputs = np.interp(rng.random(count), LEVELS, self.inputs).round().astype(int)
        targets = rng.choice(self.targets, count)
        texts = [[_tokens(rng, n) for n in lengths] for lengths in (inputs, targets)]
        inputs, targets = (tokens_of(side, 1 + max(map(len, side))) for side in texts)
        return Rows(name, [{}] * count, inputs, targets)


@dataclass(frozen=True)
class Mixture:
    """Examples of several tasks, as often as each is said.

    Attributes:
      tasks: their lengths and their weights.
    """

    tasks: tuple[tuple[Lengths, int], ...]

    def examples(self, name: str, count: int, seed: int = 0) -> Rows:
        """`count` examples of all tasks, shuffled."""
        rng = np.random.default_rng(seed)
        weights = np.array([weight for _, weight in self.tasks], float)
        tasks = rng.choice(len(self.tasks), count, p=weights / weights.sum())
        made = [of.examples(name, count, seed + n) for n, (of, _) in enumerate(self.tasks)]
        inputs = [made[task].inputs[n] for n, task in enumerate(tasks)]
        targets = [made[task].targets[n] for n, task in enumerate(tasks)]
        tokens = [tokens_of(texts, 1 + max(map(len, texts))) for texts in (inputs, targets)]
        return Rows(name, [{}] * count, tokens[0], tokens[1])


def _tokens(rng: np.random.Generator, length: int) -> np.ndarray:
    ids = rng.integers(FIRST_PIECE, LAST_PIECE, length).astype(np.int32)
    ids[-1] = EOS
    return ids


TASKS = {
    "copa": Lengths((28, 33, 35, 38, 41, 44, 49, 53), (3,)),
    "wic": Lengths((19, 25, 28, 31, 36, 41, 51, 79), (2, 4)),
    "rte": Lengths((20, 43, 55, 69, 103, 156, 214, 316), (5, 6)),
    "cb": Lengths((35, 53, 67, 85, 112, 157, 225, 305), (2, 5)),
    "boolq": Lengths((35, 77, 107, 156, 208, 247, 351, 464), (2, 4)),
    "multirc": Lengths((181, 235, 305, 426, 512, 512, 512, 512), (2, 4)),
    "wsc": Lengths((11, 17, 20, 26, 38, 61, 119, 128), (2, 3)),
    "record": Lengths((240, 269, 281, 318, 345, 448, 487, 487), (2, 3, 5, 8)),
}
MIXTURE = "superglue"
SIZES = {  # training examples as published, of ReCoRD as T5 counts them (one for each answer)
    "boolq": 9427,
    "cb": 250,
    "copa": 400,
    "multirc": 27243,
    "record": 138854,
    "rte": 2490,
    "wic": 5428,
    "wsc": 259,
}


def examples_of(name: str) -> Examples:
    """A task's examples, or those of SuperGLUE's mixture, each task as often as it has examples."""
    if name == MIXTURE:
        return Mixture(tuple((TASKS[task], size) for task, size in SIZES.items()))
    return TASKS[name]
