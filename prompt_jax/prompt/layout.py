"""Where a prompt's rows stand among the tokens of an example, as data.

A method says how many rows it has and where they go (`PromptLayout`); whoever builds a batch calls
`place` on each example. The slots it returns (0 = text, k = row k-1 of the prompt) travel with the
batch, so that packing, padding, decoding and the T5 need not know of placements, nor of whose rows
they are (`factors.py`).
"""

from typing import Literal

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.factors import Factors, length, rows_of, told
from prompt_jax.settings import settings

Placement = Literal["prefix", "after_bos", "suffix", "before_eos", "infix"]


@settings
class PromptLayout:
    """How many prompt rows the encoder and the decoder get, and where.

    Attributes:
      encoder: rows in the encoder's sequence of each example.
      placement: `prefix`: before the text; `after_bos`: after its first token; `suffix`: after its
        last (EOS included); `before_eos`: after the text and before its EOS; `infix`: between its
        fields, in equal parts, each behind one of `marks`.
      marks: ids of pieces that stand between fields, in their order, for `infix`: sentinels, say,
        written `<extra_id_0>` in the text. The first of each counts; rows whose mark a text lacks
        stand at its end, before its EOS. Marks stay in the text.
      decoder: rows before the decoder's start token.
      factors: whose the encoder's rows are, where not every example has the same ones.
      computed_once: the encoder's rows take no column of an example (`Visibility.computed_once`).

    Source: Lester et al. 2021 (prefix) and the placements of their released code.
    """

    encoder: int = 0
    placement: Placement = "prefix"
    decoder: int = 0
    factors: Factors = ()
    computed_once: bool = False
    marks: tuple[int, ...] = ()

    def check(self):
        if self.encoder < 0 or self.decoder < 0:
            raise UserError(f"PromptLayout {self.encoder}, {self.decoder}", "lengths are >= 0")
        if (self.placement == "infix") != bool(self.marks):
            remedy = "give marks to the placement 'infix', and to no other"
            raise UserError(f"PromptLayout {self.placement!r}", f"marks {self.marks}", remedy)
        if len(self.marks) > self.encoder:
            problem = f"{len(self.marks)} marks, for {self.encoder} rows"
            raise UserError(f"PromptLayout {self.encoder}", problem, "give fewer marks")
        if self.factors and self.encoder != length(self.factors):
            raise UserError(
                f"PromptLayout {self.encoder}", f"the factors have {length(self.factors)}"
            )

    @property
    def columns(self) -> int:
        """How many columns of the encoder every example takes beside its text."""
        return 0 if self.computed_once else self.encoder

    def plain_rows(self) -> dict[str, int]:
        """How many rows each side has that has some."""
        rows = {"encoder": self.encoder, "decoder": self.decoder}
        return {side: count for side, count in rows.items() if count}

    def rows(self, task: str | None) -> np.ndarray:
        """int32 [P]: the slots of the encoder's rows, from 1, for an example of a task.

        Raises:
          UserError: the prompt has rows by task or language, and none for this one.
        """
        if not self.factors:
            return np.arange(1, self.encoder + 1, dtype=np.int32)
        if task is None:
            raise UserError(
                "prompt",
                f"has {told(self.factors)}, and no task says which",
                "give it as 'DIR?task=NAME', '&language=NAME' behind it where it has languages",
            )
        return np.asarray(rows_of(self.factors, task), np.int32) + 1


NO_ROWS = PromptLayout()


def encoder_slots(tokens: np.ndarray, layout: PromptLayout, task: str | None = None) -> np.ndarray:
    """int32 [n + P]: the slots of one example of `task` whose text is `tokens` [n]; int32 [n] where
    the rows take no column."""
    n = len(tokens)
    if layout.computed_once:
        return np.zeros(n, np.int32)
    ends_in_eos = n > 0 and tokens[-1] == EOS
    if layout.placement == "infix":
        return _between(tokens, layout, task, n - ends_in_eos)
    before = {"prefix": 0, "after_bos": min(1, n), "suffix": n, "before_eos": n - ends_in_eos}
    at = before[layout.placement]
    slots = np.zeros(n + layout.encoder, np.int32)
    slots[at : at + layout.encoder] = layout.rows(task)
    return slots


def _between(tokens, layout: PromptLayout, task: str | None, end: int) -> np.ndarray:
    """int32 [n + P]: the slots of rows that stand behind marks; those without one at `end`."""
    found = [np.flatnonzero(tokens == mark)[:1] + 1 for mark in layout.marks]
    places = [int(at[0]) if len(at) else end for at in found]
    parts = np.array_split(layout.rows(task), len(places))
    slots = np.zeros(len(tokens), np.int32)
    pairs = [*zip(places, parts, strict=True)]
    for at, part in sorted(pairs[::-1], key=lambda pair: -pair[0]):  # from the end on
        slots = np.insert(slots, at, part)
    return slots


def decoder_slots(length: int, layout: PromptLayout) -> np.ndarray:
    """int32 [length + P']: the decoder's prompt rows always come first."""
    slots = np.zeros(length + layout.decoder, np.int32)
    slots[: layout.decoder] = np.arange(1, layout.decoder + 1)
    return slots


def place(values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """`values` [n] spread over the columns whose slot is 0; zeros where prompt rows stand."""
    columns = np.zeros(len(slots), values.dtype)
    columns[slots == 0] = values
    return columns


def lay_out(batch: dict[str, np.ndarray], layout: PromptLayout) -> dict[str, np.ndarray]:
    """A batch in T5X's features (padded or packed), widened by the prompt columns of `layout`.

    Every segment of a row gets its own copy of the prompt. `batch` holds int arrays [B, T] and
    [B, S]; the result has P more columns per segment of the fullest row, and `*_prompt_slots`.
    Decoder features are widened likewise; loss weights stay 0 on prompt columns.
    """
    batch = {name: np.asarray(value) for name, value in batch.items()}
    encoder = {k: v for k, v in batch.items() if k.startswith("encoder_")}
    decoder = {k: v for k, v in batch.items() if k.startswith("decoder_")}
    if layout.columns:
        encoder = _widen(encoder, "encoder", "encoder_input_tokens", layout)
    if layout.decoder and decoder:
        decoder = _widen(decoder, "decoder", "decoder_target_tokens", layout)
    return encoder | decoder


def _widen(features, side: str, tokens_name: str, layout: PromptLayout):
    tokens = features[tokens_name]
    segments = features.get(f"{side}_segment_ids", (tokens > 0).astype(np.int32))
    args = (side, layout)
    rows = [_widen_row(features, b, segments[b], tokens[b], *args) for b in range(len(tokens))]
    names = [*features, f"{side}_prompt_slots", f"{side}_segment_ids"]
    width = tokens.shape[1] + max(1, segments.max(initial=0)) * vars(layout)[side]
    dtypes = {name: value.dtype for name, value in features.items()}
    wide = {}
    for name in dict.fromkeys(names):
        wide[name] = np.zeros((len(rows), width), dtypes.get(name, np.int32))
        for b, row in enumerate(rows):
            wide[name][b, : len(row[name])] = row[name]
    return wide


def _widen_row(features, b: int, segments, tokens, side: str, layout: PromptLayout):
    parts = []
    for segment in range(1, max(int(segments.max(initial=0)), 1) + 1):
        columns = np.flatnonzero(segments == segment)
        if side == "encoder":
            slots = encoder_slots(tokens[columns], layout)
        else:
            slots = decoder_slots(len(columns), layout)
        part = {name: place(value[b, columns], slots) for name, value in features.items()}
        part[f"{side}_prompt_slots"] = slots
        part[f"{side}_segment_ids"] = np.full(len(slots), segment, np.int32)
        if (tasks := f"{side}_task_ids") in part:  # prompt columns belong to their segment's task
            part[tasks] = np.full_like(slots, part[tasks].max(initial=0))
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
