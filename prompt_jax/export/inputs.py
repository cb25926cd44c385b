"""What two forward passes are compared on: rows of the prompt's own task where it can be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.prompt.artefact import Prompt

ROWS, LONGEST = 4, 16
LENGTHS, TARGET_LENGTHS = (24, 17, 9, 3), (8, 6, 3, 2)  # of random rows


@dataclass(frozen=True)
class Inputs:
    """What is compared on.

    Attributes:
      batch: T5X's padded features, int32.
      words: where they come from.
      texts: the inputs as text; () where the tokens are random.
      max_length: tokens of a greedy output.
    """

    batch: dict[str, np.ndarray]
    words: str
    texts: tuple[str, ...] = ()
    max_length: int = 8


def real_inputs(backbone: "Backbone", prompt: "Prompt", task: str | None, split: str) -> Inputs:
    """Rows of a task, and their texts.

    `task`: by default the one that the prompt was tuned for. Only where that cannot be read, or
    where no task or vocabulary is known, are the tokens random, and the words say so.
    """
    recorded = prompt.manifest.get("task")
    if task is None and (recorded is None or backbone.vocabulary is None):
        words = "random ids: the prompt names no task that can be read"
        return Inputs(random_inputs(backbone), words)
    name = str(task or recorded)
    try:
        return _from_task(backbone, prompt, name, split)
    except UserError as error:
        if task is not None:
            raise
        return Inputs(random_inputs(backbone), f"random ids: {error}")


def _from_task(backbone: "Backbone", prompt: "Prompt", task: str, split: str) -> Inputs:
    from prompt_jax.data.split import Sampling, Split

    trained = prompt.manifest.get("run") or {}
    limits = (trained.get("input_length", 512), trained.get("target_length", 64))
    text = Split(task, split, limits, Sampling(max_examples=ROWS)).read()
    tasks = text.rows(backbone.vocabulary)
    inputs = [ids for rows in tasks for ids in rows.inputs][:ROWS]
    targets = [ids for rows in tasks for ids in rows.targets][:ROWS]
    texts = [asked for name in text.examples for asked in text.asked(name)][:ROWS]
    words, longest = f"{task}, {split}, {ROWS} examples", min(limits[1], LONGEST)
    return Inputs(batch_of(inputs, targets), words, tuple(texts), longest)


def random_inputs(backbone: "Backbone") -> dict[str, np.ndarray]:
    """Rows of different lengths, always the same for one size of vocabulary."""
    draw, size = np.random.default_rng(0), backbone.config.vocab_size
    rows = [
        np.append(draw.integers(2, size, length - 1), EOS) for length in (*LENGTHS, *TARGET_LENGTHS)
    ]
    return batch_of(rows[: len(LENGTHS)], rows[len(LENGTHS) :])


def batch_of(inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    padded = _padded(targets)
    return {
        "encoder_input_tokens": _padded(inputs),
        "decoder_input_tokens": np.pad(padded[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": padded,
    }


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
