"""Blank requests that make an engine compile all that it will run, before the first real one."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.serve.requests import Ask, Decoding
from prompt_jax.serve.table import Entry
from prompt_jax.serve.worker import Shape

CHOICES = (2, 4)  # of a ranking, as many as most tasks have


def blank_batches(
    shape: Shape, entries: Sequence[Entry], kinds: Sequence[str], input_length: int
) -> Iterator[list[Ask]]:
    """Batches of every number of rows and every width of a shape, for each kind of request: with
    the first entry, and those of the first kind with each whose text is encoded in another way.
    Before them one that takes more slots than are prefilled at a time."""
    if "generate" in kinds and shape.slots > shape.rows[-1]:  # all slots are decoded, not a few
        ids = np.full(1, EOS, np.int32)
        yield [Ask(ids, entries[0], Decoding(1), []) for _ in range(shape.rows[-1] + 1)]
    families: dict[Any, Entry] = {}
    for entry in entries:
        families.setdefault(_compiled_alike(entry), entry)
    asked = [(kind, 0) for kind in kinds if kind != "rank"]
    asked += [("rank", choices) for choices in CHOICES if "rank" in kinds]
    for number, (kind, choices) in enumerate(asked):
        for rows in shape.rows:
            for least, width in zip((0, *shape.widths), shape.widths, strict=False):
                for entry in [*families.values()][: None if number == 0 else 1]:
                    decoding = Decoding(1) if kind == "generate" else None
                    length, entry = _blank(entry, least + 1, width, input_length)
                    if length < 1:
                        continue
                    ids = np.full(length, EOS, np.int32)
                    yield [Ask(ids, entry, decoding, [ids[:1]] * choices) for _ in range(rows)]


def _compiled_alike(entry: Entry) -> Any:
    """What the programs that encode depend on, beside shapes of the batch."""
    if entry.module is None:
        return entry.visibility
    method, state = entry.module
    shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(state))
    return entry.visibility, method, shapes


def _blank(entry: Entry, least: int, width: int, input_length: int) -> tuple[int, Entry]:
    """Tokens of an input that takes `least` to `width` columns with its prompt, or 0 where none
    does; and the prompt, which has as many rows as that takes where they are plain."""
    if entry.module is None:
        length = min(width, input_length)
        layout = PromptLayout(encoder=max(0, least - length))
        return length, Entry({}, layout, entry.visibility, None, {})
    length = min(width - entry.layout.columns, input_length)
    return (length if length + entry.layout.columns >= least else 0), entry
