"""Questions: a row to answer, and rows laid out as the features of a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prompt_jax.prompt.layout import PromptLayout, encoder_slots, place

Model = tuple[Any, Any, Any]  # graphdef, trainable, frozen
ENCODER = ("encoder_input_tokens", "encoder_segment_ids", "encoder_prompt_slots")


class Question(NamedTuple):
    """One row: its tokens, which prompt it gets, and what may be answered.

    `group`: rows of different groups are never in one batch.
    `seed`: its number for sampling.
    `task`: whose rows of the prompt it gets, where they differ by task.
    """

    inputs: np.ndarray
    prompt: int = 0
    choices: tuple[str, ...] = ()
    group: int = 0
    seed: int = 0
    task: str | None = None


def features(
    questions: Sequence[Question], layouts: Sequence[PromptLayout], rows: int, width: int
) -> dict[str, np.ndarray]:
    """Encoder features of `rows` rows for texts of up to `width` tokens.

    `layouts`: where the rows of each prompt stand, by its number; one serves all numbers. Rows
    without a question are empty: decoding does not wait for them.
    """
    shape = (rows, width + max(layout.columns for layout in layouts))
    batch = {name: np.zeros(shape, np.int32) for name in ENCODER}
    prompts, seeds = np.zeros((2, rows), np.int32)
    for row, question in enumerate(questions):
        layout = layouts[question.prompt if len(layouts) > 1 else 0]
        slots = encoder_slots(question.inputs, layout, question.task)
        values = (place(question.inputs, slots), np.ones_like(slots), slots)
        for name, value in zip(ENCODER, values, strict=True):
            batch[name][row, : len(slots)] = value
        prompts[row], seeds[row] = question.prompt, question.seed
    batch["prompt_ids"] = prompts
    batch["sampling_seeds"] = seeds
    return batch
