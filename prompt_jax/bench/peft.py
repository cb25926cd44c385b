"""The same work in PEFT: prompt tuning of a T5 of transformers, rows padded to the batch's longest.

torch, transformers and PEFT are imported when a side is made, so that a benchmark of ours alone
needs none of them.
"""

import dataclasses
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from prompt_jax.bench import peft_alone
from prompt_jax.bench.lengths import Examples
from prompt_jax.errors import UserError
from prompt_jax.model.t5 import T5Config

NEEDED = {"peft": ("torch", "transformers", "peft"), "transformers": ("torch", "transformers")}
EXAMPLES = 512


def check(against: str) -> None:
    """UserError where a library is missing."""
    missing = [name for name in NEEDED[against] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--against={against}",
            f"{', '.join(missing)} is not installed",
            "pip install 'prompt-jax[parity]'",
        )


class PeftStepping:
    """Steps of PEFT's prompt tuning in float32 without dropout.

    Args:
      config: the shape of the T5.
      lengths: of the examples, which are those that `Stepping` takes.
      rows: examples of a step.
      prompt: virtual tokens.
      padded_to: columns of every batch; None: as many as its longest example has.
    """

    def __init__(
        self, config: T5Config, lengths: Examples, rows: int, prompt: int, padded_to: int | None
    ):
        self.torch: Any = import_module("torch")
        self.model, self.optimizer = peft_alone.tuned(dataclasses.asdict(config), prompt)
        self.task = lengths.examples("synthetic", EXAMPLES)
        self.rows, self.padded_to, self.at = rows, padded_to, 0

    def step(self) -> tuple[float, int]:
        """Seconds of one step, its batch at hand, and how many examples it held."""
        rows = [(self.at + i) % EXAMPLES for i in range(self.rows)]
        self.at += self.rows
        inputs = self._padded([self.task.inputs[i] for i in rows], self.padded_to, 0)
        labels = self._padded([self.task.targets[i] for i in rows], None, -100)
        began = time.perf_counter()
        peft_alone.step(self.model, self.optimizer, inputs, labels)
        return time.perf_counter() - began, self.rows

    def _padded(self, texts: list[np.ndarray], width: int | None, filler: int) -> Any:
        ids = np.full((len(texts), width or max(map(len, texts))), filler, np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text[: ids.shape[1]]
        return self.torch.from_numpy(ids)
