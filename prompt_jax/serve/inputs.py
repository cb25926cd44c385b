"""What an engine is asked, checked: texts or token ids as int32 arrays, and the choices of each."""

from collections.abc import Sequence

import numpy as np

from prompt_jax.backbone.load import Backbone
from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS

MOST_CHOICES = 1024

Input = str | Sequence[int] | np.ndarray


def input_ids(backbone: Backbone, value: Input, number: int, most: int) -> np.ndarray:
    """int32 [n] that ends in EOS, n at most `most`; UserError where it is longer, or no input."""
    ids = _encoded(backbone, value, f"inputs[{number}]")
    if len(ids) > most:
        problem = f"has {len(ids)} tokens, at most {most} fit"
        raise UserError(f"inputs[{number}]", problem, "shorten it")
    return ids


def choice_ids(backbone: Backbone, choice: str, most: int) -> np.ndarray:
    """As `input_ids`, of a choice."""
    ids = _encoded(backbone, choice, "choices")
    if len(ids) > most:
        problem = f"{choice!r} has {len(ids)} tokens, at most {most} fit"
        raise UserError("choices", problem, "shorten it")
    return ids


def _encoded(backbone: Backbone, value: Input, where: str) -> np.ndarray:
    words, size = backbone.vocabulary, backbone.config.vocab_size
    if isinstance(value, str):
        if words is None:
            raise UserError(where, "is text, and the backbone has no vocabulary", "give ids")
        return np.asarray([*words.encode(value), EOS], np.int32)
    ids = np.asarray(value)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise UserError(where, "is neither text nor token ids", "give a string or whole numbers")
    if ids.min() < 0 or ids.max() >= size:
        raise UserError(where, f"has ids outside 0..{size - 1}", "use the backbone's vocabulary")
    ids = np.trim_zeros(ids, "b").astype(np.int32)
    return ids if len(ids) and ids[-1] == EOS else np.append(ids, np.int32(EOS))


def choices_of(choices, count: int) -> list[tuple[str, ...]]:
    """The choices of every input; UserError where there are none."""
    if isinstance(choices, str) or not len(choices):
        raise UserError("choices", repr(choices), "give a list of texts")
    each = [choices] * count if isinstance(choices[0], str) else list(choices)
    if len(each) != count:
        problem = f"{len(each)} lists for {count} inputs"
        raise UserError("choices", problem, "give one list, or one for each")
    for row in each:
        if isinstance(row, str) or not row or not all(isinstance(choice, str) for choice in row):
            raise UserError("choices", repr(row)[:80], "give lists of texts")
        if len(row) > MOST_CHOICES or len(set(row)) < len(row):
            problem = f"{len(row)} choices, {len(set(row))} of them different"
            raise UserError("choices", problem, f"give up to {MOST_CHOICES}, each once")
    return [tuple(row) for row in each]
