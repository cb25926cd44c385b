"""Arrays to arrays: logits of a backbone and a prompt, and the checks of what a caller gives.

A batch is a mapping of T5X's features, as `prompt_jax.api` describes it; the columns of a prompt
are added here.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from prompt_jax.backbone.load import Backbone
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError
from prompt_jax.model import decode
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.artefact import Prompt, check_backbone
from prompt_jax.prompt.layout import NO_ROWS, PromptLayout, lay_out

Batch = Mapping[str, ArrayLike]


TEACHER_FORCING = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


def logits(backbone: Backbone, batch: Batch, prompt: Prompt | ArrayLike | None = None):
    """float32 [B, S, V] under teacher forcing, for the decoder's columns of `batch`.

    They mean something where `decoder_target_tokens` > 0.

    Raises:
      UserError: a feature is missing or no array of tokens; a prompt of another width.

    >>> backbone = load_backbone("random:nano?seed=0", vocabulary="bytes")
    >>> batch = {"encoder_input_tokens": [[7, 8, 1]], "decoder_input_tokens": [[0, 9]],
    ...          "decoder_target_tokens": [[9, 1]]}
    >>> logits(backbone, batch, prompt=np.zeros((5, 128))).shape
    (1, 2, 8192)
    """
    bundle, layout = prompt_of(backbone, prompt)
    features = features_of(backbone, batch)
    B, S = features["decoder_target_tokens"].shape
    # The number of each column travels through the layout, to be found again afterwards.
    features["decoder_columns"] = np.broadcast_to(np.arange(1, S + 1), (B, S))
    wide = lay_out(features, layout)
    columns = wide.pop("decoder_columns")
    row, column = np.nonzero(columns)
    where = np.zeros((B, S), np.int32)
    where[row, columns[row, column] - 1] = column
    return np.asarray(_logits(*nnx.split(backbone.model), wide, bundle, where))


@partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, batch, bundle, columns_BS):
    wide = nnx.merge(graphdef, params)(batch, bundle)
    return jnp.take_along_axis(wide, columns_BS[:, :, None], axis=1)


def greedy_ids(backbone: Backbone, tokens: ArrayLike, prompt: Any, max_length: int) -> np.ndarray:
    """int32 [B, max_length]: greedy ids of encoder inputs [B, T], 0 after EOS."""
    bundle, batch = encoder_batch(backbone, tokens, prompt)
    return np.asarray(_greedy(*nnx.split(backbone.model), batch, bundle, max_length))


@partial(jax.jit, static_argnums=(0, 4))
def _greedy(graphdef, params, batch, bundle, max_length):
    t5 = nnx.merge(graphdef, params)
    return decode.generate(t5, batch, bundle, max_length=max_length)[0][:, 0]


def prompt_of(backbone: Backbone, prompt) -> tuple[PromptBundle, PromptLayout]:
    """What the T5 takes, and where its rows go."""
    if prompt is None:
        return NO_PROMPT, NO_ROWS
    if not isinstance(prompt, Prompt):
        rows = np.asarray(prompt)
        kind = f"array {rows.dtype} {list(rows.shape)}"
        if rows.ndim != 2 or rows.dtype.kind not in "fV" or 0 in rows.shape:  # V: bfloat16
            raise UserError("prompt", kind, f"give floats [rows, {backbone.config.emb_dim}]")
        prompt = Prompt({"encoder": rows.astype(np.float32)}, {}, kind)
    check_backbone(prompt, backbone)
    return prompt.bundle(), prompt.layout


def features_of(backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
    """The batch as numpy arrays, its tokens checked."""
    if missing := [name for name in TEACHER_FORCING if name not in batch]:
        raise UserError("batch", f"no {missing[0]}", f"it needs {', '.join(TEACHER_FORCING)}")
    if laid_out := [name for name in batch if name.endswith("_prompt_slots")]:
        raise UserError("batch", f"{laid_out[0]} exists already", "leave the prompt's columns out")
    tokens = {name: checked_tokens(backbone, name, batch[name], ndim=2) for name in TEACHER_FORCING}
    return {name: np.asarray(value) for name, value in batch.items()} | tokens


def encoder_batch(backbone: Backbone, tokens: ArrayLike, prompt):
    """The bundle, and the encoder's features with the prompt's columns."""
    bundle, layout = prompt_of(backbone, prompt)
    name = "encoder_input_tokens"
    tokens = token_rows(backbone, tokens)
    return bundle, lay_out({name: checked_tokens(backbone, name, tokens, ndim=2)}, layout)


def vocabulary_of(backbone: Backbone) -> Vocabulary:
    """The backbone's; UserError where it has none."""
    if backbone.vocabulary is None:
        raise UserError(
            f"backbone {backbone.name!r}", "has no vocabulary", "load it with vocabulary=FILE.model"
        )
    return backbone.vocabulary


def token_rows(backbone: Backbone, rows: ArrayLike | Sequence[Any]) -> ArrayLike:
    """Texts, or rows of ids of unequal lengths, as ids padded with 0; anything else as it is.

    Texts end in EOS, and their width is rounded up to a multiple of 8, so that few shapes come.
    """
    if isinstance(rows, str):
        raise UserError("inputs", "one text", "give a list of texts")
    if not isinstance(rows, Sequence) or not rows:
        return rows
    listed: list[Any] = list(rows)
    multiple = 1
    if all(isinstance(row, str) for row in listed):
        words, multiple = vocabulary_of(backbone), 8
        listed = [[*words.encode(row), EOS] for row in listed]
    lengths = [len(row) if isinstance(row, Sequence | np.ndarray) else 0 for row in listed]
    if 0 in lengths or (multiple == 1 and len(set(lengths)) == 1):
        return listed
    width = -(-max(lengths) // multiple) * multiple
    padded = np.zeros((len(listed), width), np.asarray(listed[0]).dtype)
    for line, row in zip(padded, listed, strict=True):
        line[: len(row)] = row
    return padded


def checked_tokens(backbone: Backbone, name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    """int32 with `ndim` axes, every id with an embedding."""
    tokens, size = np.asarray(value), backbone.config.vocab_size
    if tokens.ndim != ndim or tokens.dtype.kind not in "iu":
        kind = f"{tokens.dtype} {list(tokens.shape)}"
        raise UserError(name, kind, f"give an int array with {ndim} axes, padded with 0")
    low, high = tokens.min(initial=0), tokens.max(initial=0)
    if low < 0 or high >= size:
        bad = low if low < 0 else high
        raise UserError(
            name, f"id {bad} is outside 0..{size - 1}", "tokenise with the backbone's vocabulary"
        )
    return tokens.astype(np.int32)
