"""Examples as long as those of real tasks, of random tokens: what a speed depends on, without data.

The quantiles are those of SuperGLUE's training sets in T5's pieces, as the tasks here write them.
"""

from dataclasses import dataclass

import numpy as np

from prompt_jax.data.rows import Rows, tokens_of
from prompt_jax.model.logprobs import EOS

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
FIRST_PIECE, LAST_PIECE = 3, 8000  # of random tokens; every vocabulary has them


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


def _tokens(rng: np.random.Generator, length: int) -> np.ndarray:
    ids = rng.integers(FIRST_PIECE, LAST_PIECE, length).astype(np.int32)
    ids[-1] = EOS
    return ids


TASKS = {
    "copa": Lengths((28, 33, 35, 38, 41, 44, 49, 53), (3,)),
    "wic": Lengths((19, 25, 28, 31, 36, 41, 51, 79), (2, 4)),
    "rte": Lengths((20, 43, 55, 69, 103, 156, 214, 316), (5, 6)),
    "cb": Lengths((35, 53, 67, 85, 112, 157, 225, 305), (2, 5)),
}
