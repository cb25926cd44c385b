"""A decoding cache whose rows have their own lengths, masks and prompts.

`prefill` encodes examples and writes the rows of their decoder prompts; `insert` puts such rows
into slots of a resident cache, which may be wider; `step` advances every row at its own position.

Shapes: B rows (slots), R prefilled rows, T encoder columns, N decoder columns, P' rows of a decoder
prompt, L layers, H heads, K head width, D model width, V vocabulary.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.columns import insert_rows
from prompt_jax.model.layers import T5Config
from prompt_jax.model.t5 import T5, decoder_shown, encoder_segments

KeysValues = tuple[jax.Array, jax.Array]


@struct.dataclass
class Cache:
    """What the decoder has seen of every row.

    Attributes:
      lengths: int32 [B], the decoder columns written so far, those of the prompt among them.
      prompts: int32 [B], which prompt of the bundle the row has.
      encoder_mask: bool [B, T], the real encoder columns.
      attention: keys and values [L, B, N, H, K] of the self-attention.
      cross: keys and values [L, B, T, H, K] of the attention to the encoder.

    The keys and values that a method puts before those of the text are in the bundle, not here.
    """

    lengths: jax.Array
    prompts: jax.Array
    encoder_mask: jax.Array
    attention: KeysValues
    cross: KeysValues


def empty(config: T5Config, rows: int, width: int, columns: int) -> Cache:
    """A cache of `rows` slots for `width` encoder columns and `columns` decoder columns, all 0."""

    def keys_values(length: int) -> KeysValues:
        shape = (config.num_decoder_layers, rows, length, config.num_heads, config.head_dim)
        return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)

    return Cache(
        lengths=jnp.zeros(rows, jnp.int32),
        prompts=jnp.zeros(rows, jnp.int32),
        encoder_mask=jnp.zeros((rows, width), bool),
        attention=keys_values(columns),
        cross=keys_values(width),
    )


def cache_bytes(config: T5Config, rows: int, width: int, columns: int) -> int:
    """The bytes that the arrays of `empty` take, without making them.

    >>> from prompt_jax.model.sizes import SIZES
    >>> cache_bytes(SIZES["nano"], rows=8, width=64, columns=32)  # bfloat16
    1573440
    """
    arrays = jax.tree.leaves(jax.eval_shape(lambda: empty(config, rows, width, columns)))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def prefill(t5: T5, batch, bundle: PromptBundle = NO_PROMPT, *, columns: int) -> Cache:
    """Encodes a batch and writes its decoder prompts: a cache that has room for `columns` tokens.

    `batch` holds T5's encoder features, one example per row, and may hold `prompt_ids` [B], the
    number of the prompt of every row; without them all rows have prompt 0. The cache has P' +
    `columns` decoder columns.
    """
    return of_encoded(t5, t5.encode(batch, bundle), batch, bundle, columns=columns)


def of_encoded(
    t5: T5, encoded_BTD: jax.Array, batch, bundle: PromptBundle = NO_PROMPT, *, columns: int
) -> Cache:
    """`prefill` of a batch that is encoded already."""
    B, _, D = encoded_BTD.shape
    prompts = jnp.asarray(batch.get("prompt_ids", jnp.zeros(B, jnp.int32)), jnp.int32)
    slots_BP = decoder_slots(bundle, B, prompts)
    length = slots_BP.shape[1]
    cross = t5.cross_keys_values(encoded_BTD, bundle, prompts)
    L, _, _, H, K = cross[0].shape
    blank = jnp.zeros((L, B, length + columns, H, K), encoded_BTD.dtype)
    cache = Cache(
        lengths=jnp.zeros(B, jnp.int32),
        prompts=prompts,
        encoder_mask=encoder_segments(batch) > 0,
        attention=(blank, blank),
        cross=cross,
    )
    if length == 0:
        return cache
    ids = jnp.broadcast_to(prompts[:, None], slots_BP.shape)
    blank = jnp.zeros((B, length, D), encoded_BTD.dtype)
    rows_BPD = insert_rows(blank, bundle.decoder, slots_BP, ids)
    return _advance(t5, cache, rows_BPD, bundle, slots_BP)[1]


def step(
    t5: T5, cache: Cache, tokens_B: jax.Array, bundle: PromptBundle = NO_PROMPT
) -> tuple[jax.Array, Cache]:
    """Reads the next token of every row, int32 [B].

    Returns float32 [B, V], the log-probabilities of what follows it, and the cache, one column
    longer in every row. A row without room left keeps its length, and writes its last column again.
    """
    logits, cache = next_logits(t5, cache, tokens_B, bundle)
    return jax.nn.log_softmax(logits), cache


def next_logits(
    t5: T5, cache: Cache, tokens_B: jax.Array, bundle: PromptBundle = NO_PROMPT
) -> tuple[jax.Array, Cache]:
    """`step`, but float32 logits [B, V]."""
    logits, cache = _advance(t5, cache, t5.embed(tokens_B[:, None]), bundle)
    return logits[:, 0], cache


def insert(cache: Cache, rows: Cache, slots_R: jax.Array) -> Cache:
    """The cache with the R prefilled `rows` in the slots int32 [R], in place of what was there.

    `rows` may have fewer encoder and decoder columns than the cache, never more. A slot of B or
    above leaves its row out, so that batches of a fixed R may be filled in part.
    """

    def keys_values(old, new):
        new = jnp.pad(new, [(0, 0)] * 2 + [(0, old.shape[2] - new.shape[2])] + [(0, 0)] * 2)
        return old.at[:, slots_R].set(new, mode="drop")

    wider = cache.encoder_mask.shape[1] - rows.encoder_mask.shape[1]
    mask_RT = jnp.pad(rows.encoder_mask, ((0, 0), (0, wider)))
    return Cache(
        lengths=cache.lengths.at[slots_R].set(rows.lengths, mode="drop"),
        prompts=cache.prompts.at[slots_R].set(rows.prompts, mode="drop"),
        encoder_mask=cache.encoder_mask.at[slots_R].set(mask_RT, mode="drop"),
        attention=jax.tree.map(keys_values, cache.attention, rows.attention),
        cross=jax.tree.map(keys_values, cache.cross, rows.cross),
    )


def first(cache: Cache, count: int) -> Cache:
    """The first rows of a cache."""
    few = lambda x: x[:, :count]  # noqa: E731
    return Cache(
        lengths=cache.lengths[:count],
        prompts=cache.prompts[:count],
        encoder_mask=cache.encoder_mask[:count],
        attention=jax.tree.map(few, cache.attention),
        cross=jax.tree.map(few, cache.cross),
    )


def with_first(cache: Cache, grown: Cache) -> Cache:
    """The cache, whose first rows have decoded what those in `grown` have."""
    count = len(grown.lengths)
    put = lambda old, new: old.at[:, :count].set(new)  # noqa: E731
    return dataclasses.replace(
        cache,
        lengths=cache.lengths.at[:count].set(grown.lengths),
        attention=jax.tree.map(put, cache.attention, grown.attention),
    )


def repeat(cache: Cache, copies: int) -> Cache:
    """Every row `copies` times, one after the other."""
    return Cache(
        lengths=jnp.repeat(cache.lengths, copies),
        prompts=jnp.repeat(cache.prompts, copies),
        encoder_mask=jnp.repeat(cache.encoder_mask, copies, axis=0),
        attention=jax.tree.map(lambda x: jnp.repeat(x, copies, axis=1), cache.attention),
        cross=jax.tree.map(lambda x: jnp.repeat(x, copies, axis=1), cache.cross),
    )


def continue_from(cache: Cache, rows_B: jax.Array) -> Cache:
    """The cache in which row b goes on from what the decoder wrote in row `rows_B[b]`.

    Both must be of one example and equally long, as beams are: what they see of the encoder stays.
    """
    return dataclasses.replace(
        cache, attention=jax.tree.map(lambda x: x[:, rows_B], cache.attention)
    )


def _advance(t5: T5, cache: Cache, x_BSD, bundle: PromptBundle, slots_BS=None):
    """float32 logits [B, S, V] of S more columns in every row, and the cache that has them."""
    S, N = x_BSD.shape[1], cache.attention[0].shape[2]
    at_B = jnp.minimum(cache.lengths, N - S)
    columns = {"decoder_input_tokens": x_BSD[..., 0], "prompt_ids": cache.prompts}
    shown = decoder_shown(columns, bundle)._replace(slots=slots_BS)
    keys_values = {"self": cache.attention, "cross": cache.cross}
    logits, keys_values = t5.decode_step(
        x_BSD, keys_values, at_B, cache.encoder_mask, bundle, shown
    )
    return logits, dataclasses.replace(cache, lengths=at_B + S, attention=keys_values["self"])


def decoder_slots(bundle: PromptBundle, rows: int, prompts_B: jax.Array | None) -> jax.Array:
    """int32 [B, P']: the rows of every row's decoder prompt, 0 where its prompt has fewer."""
    length = 0 if bundle.decoder is None else bundle.decoder.shape[1]
    slots = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.int32), (rows, length))
    if bundle.decoder_present is None or prompts_B is None:
        return slots
    return jnp.where(bundle.decoder_present[prompts_B], slots, 0)
