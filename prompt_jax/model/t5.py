"""The T5: 1.0, 1.1, LM-adapted, Flan, mT5, umT5 and ByT5, in Flax NNX, layers always scanned.

Raffel et al. 2020 (https://arxiv.org/abs/1910.10683); parameter names and layouts are T5X's, with
all layers of a stack in one array: `encoder/layers/attention/query/kernel` [L, D, H*K] stands for
T5X's `encoder/layers_0/attention/query/kernel` [D, H*K] and its sisters.

Shapes: B rows, T encoder columns, S decoder columns, N cached columns, D emb_dim, H heads,
K head_dim, F mlp_dim, V vocab_size, L layers. Activations are in `config.dtype`; RMS norm, softmax
and logits are computed in float32. Attention logits are not scaled by 1/sqrt(K) (T5 folds that into
the initialiser). Dropout is on when, and only when, a key is passed in.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.model.activations import REMAT, saveable, split, unsplit
from prompt_jax.model.bundle import NO_PROMPT, LayerEdit, PromptBundle
from prompt_jax.model.columns import (
    enter,
    insert_rows,
    of_row,
    offset_text,
    picked,
    places_of,
    visible,
    with_keys_values,
)
from prompt_jax.model.layers import (
    MLP,
    Attention,
    Dense,
    RelativeBias,
    RMSNorm,
    T5Config,
    dropout,
    from_queries,
    kernel,
    split_keys,
    within_segments,
)
from prompt_jax.model.quantised import matmul

ONCE_KEY = 2**16 + 1  # folded into a step's key for rows that are computed once


class Shown(NamedTuple):
    """What the rows of a batch show of a bundle's prompts, in one stack.

    Attributes:
      slots: int32 [B, T], which row of its prompt each column is; None: none.
      columns: int32 [B, T], the prompt of each column; None: the first.
      rows: int32 [B], the prompt of each row; None: there is one.
      positions: int32 [P] or [B, P], where a bundle's keys of self-attention stand; None: nowhere.
      distances: int32 [B, T, P], of these keys from each column; None: nowhere.
    """

    slots: jax.Array | None = None
    columns: jax.Array | None = None
    rows: jax.Array | None = None
    positions: jax.Array | None = None
    distances: jax.Array | None = None


class EncoderLayer(nnx.Module):
    def __init__(self, rngs, stack, config: T5Config):
        self.pre_attention_layer_norm = RMSNorm(stack, config.emb_dim)
        self.attention = Attention(rngs, stack, config)
        self.pre_mlp_layer_norm = RMSNorm(stack, config.emb_dim)
        self.mlp = MLP(rngs, stack, config)
        if config.relpos_per_layer:
            self.relpos_bias = RelativeBias(rngs, stack, config, bidirectional=True)
        self.config = config

    def __call__(self, x, bias, mask, edit: LayerEdit, places, dropout_key):
        """[B, T, D], and the keys and values of its own attention. `places`: of queries, keys and
        the prompt's keys, for a bias of the layer's own."""
        k = split_keys(dropout_key, 4)
        rate = self.config.dropout_rate
        if self.config.relpos_per_layer:
            bias = self.relpos_bias.of_text(*places)
        y = self.pre_attention_layer_norm(x)
        now = self.attention.keys_values(y, edit.attention)
        y = self.attention(y, now, bias, mask, edit.attention, k[0])
        x = saveable(split(x + dropout(y, rate, k[1])))
        y = self.mlp(self.pre_mlp_layer_norm(x), edit, k[2])
        return split(x + dropout(y, rate, k[3])), now


class DecoderLayer(nnx.Module):
    def __init__(self, rngs, stack, config: T5Config):
        self.pre_self_attention_layer_norm = RMSNorm(stack, config.emb_dim)
        self.self_attention = Attention(rngs, stack, config)
        self.pre_cross_attention_layer_norm = RMSNorm(stack, config.emb_dim)
        self.encoder_decoder_attention = Attention(rngs, stack, config)
        self.pre_mlp_layer_norm = RMSNorm(stack, config.emb_dim)
        self.mlp = MLP(rngs, stack, config)
        if config.relpos_per_layer:
            self.relpos_bias = RelativeBias(rngs, stack, config, bidirectional=False)
        self.config = config

    def __call__(
        self, x, encoded, cache, offset, bias, mask, cross_mask, edit, places, dropout_key
    ):
        """Without a cache, [B, S, D]; with one, also the cache with these S columns written."""
        k = split_keys(dropout_key, 6)
        rate = self.config.dropout_rate
        y = self.pre_self_attention_layer_norm(x)
        now = self.self_attention.keys_values(y, edit.attention)
        if cache is None:
            cross = self.encoder_decoder_attention.keys_values(encoded, edit.cross)
        else:
            put = jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
            now = tuple(put(old, new, offset) for old, new in zip(cache["self"], now, strict=True))
            cache, cross = {**cache, "self": now}, cache["cross"]
        if self.config.relpos_per_layer:
            bias = self.relpos_bias.of_text(*places)
        y = self.self_attention(y, now, bias, mask, edit.attention, k[0])
        x = saveable(split(x + dropout(y, rate, k[1])))
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, cross, None, cross_mask, edit.cross, k[2])
        x = saveable(split(x + dropout(y, rate, k[3])))
        y = self.mlp(self.pre_mlp_layer_norm(x), edit, k[4])
        return split(x + dropout(y, rate, k[5])), cache


def _scan(layers: nnx.Module, call, x, num_layers, dropout_key, remat, xs=None):
    """x through every layer of a stack: `call(layer, x, key, xs_of_layer) -> (x, ys_of_layer)`."""
    graphdef, stacked = nnx.split(layers)
    keys = None if dropout_key is None else jax.random.split(dropout_key, num_layers)

    def body(x, inputs):
        arrays, key, extra = inputs
        return call(nnx.merge(graphdef, arrays), x, key, extra)

    policy = REMAT[remat]
    body = body if policy is None else jax.checkpoint(body, policy=policy, prevent_cse=False)
    return jax.lax.scan(body, x, (stacked, keys, xs))


class Encoder(nnx.Module):
    def __init__(self, rngs, config: T5Config):
        stack = (config.num_encoder_layers,)
        if not config.relpos_per_layer:
            self.relpos_bias = RelativeBias(rngs, (), config, bidirectional=True)
        self.layers = EncoderLayer(rngs, stack, config)
        self.encoder_norm = RMSNorm((), config.emb_dim)
        self.config = config

    def __call__(self, x_BTD, mask_B1TT, edits: LayerEdit, shown: Shown, dropout_key):
        return self._run(x_BTD, mask_B1TT, edits, shown, dropout_key, lambda keys_values: None)[0]

    def with_keys_values(self, x_XPD, mask_X1PP, edits: LayerEdit, shown: Shown, dropout_key):
        """The output [X, P, D], and the keys and values of every layer, [L, X, P, H, K]."""
        return self._run(
            x_XPD, mask_X1PP, edits, shown, dropout_key, lambda keys_values: keys_values
        )

    def _run(self, x_BTD, mask_B1TT, edits, shown: Shown, dropout_key, keep: Callable):
        """The output, and what `keep` takes of every layer's keys and values."""
        c = self.config
        k = split_keys(dropout_key, 3)
        columns = jnp.arange(x_BTD.shape[1])
        places = (columns, columns, shown.distances)
        bias = None if c.relpos_per_layer else self.relpos_bias.of_text(*places)
        x = dropout(x_BTD, c.dropout_rate, k[0])

        def call(layer, x, key, edit):
            x = enter(x, edit, shown.slots, shown.columns)
            edit = picked(edit, shown.rows, shown.columns)
            x, keys_values = layer(x, bias, mask_B1TT, edit, places, key)
            return x, keep(keys_values)

        x, saved = _scan(self.layers, call, x, c.num_encoder_layers, k[1], c.remat, edits)
        return dropout(self.encoder_norm(x), c.dropout_rate, k[2]), saved


class Decoder(nnx.Module):
    def __init__(self, rngs, config: T5Config):
        D, V = config.emb_dim, config.vocab_size
        if not config.relpos_per_layer:
            self.relpos_bias = RelativeBias(rngs, (), config, bidirectional=False)
        self.layers = DecoderLayer(rngs, (config.num_decoder_layers,), config)
        self.decoder_norm = RMSNorm((), D)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(rngs, (), (D, V), ("embed", "vocab"), D**-0.5)
        self.config = config

    def __call__(self, x_BSD, encoded, cache, offset, mask, cross_mask, edits, shown: Shown, key):
        """The normed output [B, S, D] and, where one was given, the cache with S more columns."""
        c = self.config
        k = split_keys(key, 3)
        queries = jnp.arange(x_BSD.shape[1])[None] + jnp.atleast_1d(offset)[:, None]
        places = (queries, jnp.arange(mask.shape[-1]), shown.distances)
        bias = None if c.relpos_per_layer else self.relpos_bias.of_text(*places)
        x = dropout(x_BSD, c.dropout_rate, k[0])

        def call(layer, x, layer_key, inputs):
            edit, cache = inputs
            x = enter(x, edit, shown.slots, shown.columns)
            edit = picked(edit, shown.rows, shown.columns)
            return layer(x, encoded, cache, offset, bias, mask, cross_mask, edit, places, layer_key)

        xs = (edits, cache)
        x, cache = _scan(self.layers, call, x, c.num_decoder_layers, k[1], c.remat, xs)
        return dropout(self.decoder_norm(x), c.dropout_rate, k[2]), cache


class Embedder(nnx.Module):
    def __init__(self, rngs, config: T5Config):
        shape = (config.vocab_size, config.emb_dim)
        self.embedding = kernel(rngs.params(), (), shape, ("vocab", "embed"), 1.0)


class T5(nnx.Module):
    """The encoder-decoder. Parameters are float32 until cast; see `with_arrays`."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.config = config
        self.token_embedder = Embedder(rngs, config)
        self.encoder = Encoder(rngs, config)
        self.decoder = Decoder(rngs, config)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[..., D] in config.dtype, for integer tokens of any shape."""
        table = self.token_embedder.embedding[...]
        return table[tokens].astype(jnp.dtype(self.config.dtype))

    def encode(self, batch, bundle: PromptBundle = NO_PROMPT, dropout_key=None) -> jax.Array:
        """The encoder's output [B, T, D] of a batch in T5X's feature names.

        Raises:
          ValueError: rows that are computed once have not been (`computed_once`).
        """
        if bundle.visibility.computed_once:
            raise ValueError("rows that are computed once: give what T5.computed_once returns")
        segments, shown = encoder_segments(batch), encoder_shown(batch, bundle)
        x = self.embed(batch["encoder_input_tokens"])
        x = insert_rows(x, bundle.encoder, shown.slots, shown.columns)
        places = places_of(segments, shown.slots)
        x = offset_text(x, bundle.encoder_offset, places, shown.columns)
        mask = segments[:, :, None] == segments[:, None, :]
        policy = visible(bundle.visibility, shown.slots)
        mask = mask if policy is None else mask & policy
        return self.encoder(x, mask[:, None], bundle.encoder_layers, shown, dropout_key)

    def computed_once(self, bundle: PromptBundle, dropout_key=None) -> PromptBundle:
        """The bundle with keys and values in place of the rows that `Visibility.computed_once`
        speaks of: those of every encoder layer, and what the decoder's layers see of the encoder's
        output. Other bundles are returned as they are.

        `bundle.encoder` [X, P, D] goes through the encoder as X rows of P columns, which is what
        prompt columns compute beside each example where they do not see it. The gradient of the
        keys and values, and so of the rows, is the sum over all examples that saw them.
        """
        rows = bundle.encoder
        if not bundle.visibility.computed_once or rows is None:
            return bundle
        X, P, _ = rows.shape
        slots = jnp.broadcast_to(jnp.arange(1, P + 1, dtype=jnp.int32), (X, P))
        ids = None if X == 1 else jnp.arange(X, dtype=jnp.int32)
        columns = jnp.broadcast_to(jnp.arange(X, dtype=jnp.int32)[:, None], (X, P))
        mask, shown = visible(bundle.visibility, slots), Shown(slots, columns, ids)
        assert mask is not None  # every policy that hides the input has one
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, ONCE_KEY)
        x = rows.astype(jnp.dtype(self.config.dtype))
        with unsplit():
            encoded, own = self.encoder.with_keys_values(
                x, mask[:, None], bundle.encoder_layers, shown, key
            )
            cross = self.cross_keys_values(encoded, bundle, ids)
        return with_keys_values(bundle, own, cross)

    def __call__(self, batch, bundle: PromptBundle = NO_PROMPT, dropout_key=None) -> jax.Array:
        """Logits float32 [B, S, V] under teacher forcing.

        `batch` holds int32 `encoder_input_tokens` [B, T], `decoder_input_tokens` and
        `decoder_target_tokens` [B, S]; optionally `*_segment_ids`, `*_prompt_slots`, `*_task_ids`
        of the same shapes, and `prompt_ids` [B], the prompt of every row. Without segment ids,
        columns whose token (for the decoder: target) is not 0 are one segment, as in T5X. A decoder
        segment reads the encoder's of its number, or that of `decoder_source_segment_ids` [B, S]:
        so may several read one.
        """
        return self.logits(self.decoded(batch, bundle, dropout_key))

    def decoded(self, batch, bundle: PromptBundle = NO_PROMPT, dropout_key=None) -> jax.Array:
        """The decoder's output [B, S, D], of which `logits` are made."""
        k = split_keys(dropout_key, 2)
        bundle = self.computed_once(bundle, dropout_key)
        return self.decode(self.encode(batch, bundle, k[0]), batch, bundle, k[1])

    def decode_logits(self, encoded_BTD, batch, bundle=NO_PROMPT, dropout_key=None) -> jax.Array:
        """Logits float32 [B, S, V] under teacher forcing, given the encoder's output."""
        return self.logits(self.decode(encoded_BTD, batch, bundle, dropout_key))

    def decode(self, encoded_BTD, batch, bundle=NO_PROMPT, dropout_key=None) -> jax.Array:
        """The decoder's output [B, S, D], normed, under teacher forcing."""
        shown = decoder_shown(batch, bundle)
        slots = shown.slots
        x = self.embed(batch["decoder_input_tokens"])
        x = insert_rows(x, bundle.decoder, slots, shown.columns)
        segments = batch.get("decoder_segment_ids")
        if segments is None:
            real = batch["decoder_target_tokens"] > 0
            segments = (real if slots is None else real | (slots > 0)).astype(jnp.int32)
        shown = beside_segments(shown, segments)
        mask = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        mask = mask & jnp.tril(jnp.ones(mask.shape[1:], bool))[None]
        sources = batch.get("decoder_source_segment_ids", segments)
        cross = sources[:, :, None] == encoder_segments(batch)[:, None, :]
        args = (encoded_BTD, None, 0, mask[:, None], cross[:, None])
        return self.decoder(x, *args, bundle.decoder_layers, shown, dropout_key)[0]

    def logits(self, y_BSD: jax.Array) -> jax.Array:
        """float32 [B, S, V] of the decoder's output."""
        if self.config.scale_logits:
            y_BSD = y_BSD * jnp.asarray(self.config.emb_dim**-0.5, y_BSD.dtype)
        if self.config.logits_via_embedding:
            kernel = self.token_embedder.embedding[...].T
        else:
            kernel = self.decoder.logits_dense.kernel[...]
        return matmul(y_BSD, kernel.astype(y_BSD.dtype), jnp.float32)

    def cross_keys_values(
        self, encoded_BTD: jax.Array, bundle: PromptBundle = NO_PROMPT, ids_B=None
    ) -> tuple[jax.Array, jax.Array]:
        """Two arrays [L, B, T, H, K]: what every decoder layer attends to of the encoder's output,
        as the prompt of each row, int32 [B], changes it. The keys and values of the bundle itself
        are not among them."""
        graphdef, stacked = nnx.split(self.decoder.layers)

        def cross(_, inputs):
            arrays, edit = inputs
            layer, edit = nnx.merge(graphdef, arrays), picked(edit, ids_B)
            return None, layer.encoder_decoder_attention.keys_values(encoded_BTD, edit.cross)

        return jax.lax.scan(cross, None, (stacked, bundle.decoder_layers))[1]

    def decode_step(
        self,
        x_BSD,
        cache: dict[str, Any],
        offset_B: jax.Array,
        encoder_mask_BT: jax.Array,
        bundle: PromptBundle = NO_PROMPT,
        shown: Shown = Shown(),  # noqa: B008 (a tuple)
    ) -> tuple[jax.Array, Any]:
        """S more columns through the decoder: float32 logits [B, S, V] and the grown cache.

        `x_BSD` are embeddings (`embed`, or the rows of a decoder prompt, with their slots in
        `shown`); `cache` holds keys and values [L, B, N, H, K] of the attentions `self` and
        `cross` (see `cache.py`); `offset_B`, int32, is the column of the first in every row;
        `encoder_mask_BT`, bool, says which encoder columns are real. Decoder rows that a prompt
        lacks are seen by nobody.
        """
        S, N = x_BSD.shape[1], cache["self"][0].shape[2]
        queries_BS = jnp.arange(S)[None] + offset_B[:, None]
        if shown.positions is not None:
            shown = shown._replace(distances=from_queries(queries_BS, shown.positions))
        mask_BSN = jnp.arange(N)[None, None] <= queries_BS[..., None]
        if bundle.decoder_present is not None and shown.rows is not None:
            present = bundle.decoder_present[shown.rows]
            room = ((0, 0), (0, N - present.shape[1]))
            mask_BSN = mask_BSN & jnp.pad(present, room, constant_values=True)[:, None]
        cross = encoder_mask_BT[:, None, None, :]
        args = (bundle.decoder_layers, shown, None)
        y, cache = self.decoder(x_BSD, None, cache, offset_B, mask_BSN[:, None], cross, *args)
        return self.logits(y), cache


def encoder_segments(batch) -> jax.Array:
    """int32 [B, T]: the segment of every encoder column, 0 for padding."""
    if "encoder_segment_ids" in batch:
        return batch["encoder_segment_ids"]
    real = batch["encoder_input_tokens"] > 0
    slots = batch.get("encoder_prompt_slots")
    return (real if slots is None else real | (slots > 0)).astype(jnp.int32)


def encoder_shown(batch, bundle: PromptBundle) -> Shown:
    """What the encoder's rows show of a bundle."""
    shape = batch["encoder_input_tokens"].shape
    shown = _shown(batch, "encoder", bundle.encoder_positions, shape)
    shown = beside_segments(shown, encoder_segments(batch))
    return shown if bundle.encoder_ids is None else shown._replace(columns=bundle.encoder_ids)


def decoder_shown(batch, bundle: PromptBundle) -> Shown:
    """What the decoder's rows show of a bundle."""
    shape = batch["decoder_input_tokens"].shape
    return _shown(batch, "decoder", bundle.decoder_positions, shape)


def _shown(batch, side: str, positions_XP, shape: tuple[int, int]) -> Shown:
    rows, columns = batch.get("prompt_ids"), batch.get(f"{side}_task_ids")
    if columns is None and rows is not None:
        columns = jnp.broadcast_to(rows[:, None], shape)
    positions = positions_XP
    if positions_XP is not None:
        by_column = rows is None and columns is not None  # the keys of all prompts are there
        positions = positions_XP.reshape(-1) if by_column else of_row(positions_XP, rows)
    return Shown(batch.get(f"{side}_prompt_slots"), columns, rows, positions)


def beside_segments(shown: Shown, segments_BT: jax.Array) -> Shown:
    """`shown` with the distances of its positions from each column, in the column's own segment."""
    if shown.positions is None:
        return shown
    return shown._replace(distances=within_segments(segments_BT, shown.positions))
