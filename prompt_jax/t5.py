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
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.activations import REMAT, kept, split
from prompt_jax.bundle import NO_PROMPT, PromptBundle, insert_rows, visible
from prompt_jax.quantised import matmul

MASKED = -1e10  # T5X's value for a masked attention logit


@dataclass(frozen=True)
class T5Config:
    """Shapes and switches of a T5; field names are T5X's where it has them."""

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")  # ("relu",) in T5 1.0
    logits_via_embedding: bool = False  # T5 1.0 ties the logits to the embedding
    scale_logits: bool = False  # and multiplies the decoder's output by D**-0.5 first
    relpos_per_layer: bool = False  # umT5
    num_buckets: int = 32
    max_distance: int = 128
    dropout_rate: float = 0.1
    dtype: str = "bfloat16"
    remat: str = "none"


def _kernel(key, stack, shape, axes, stddev) -> nnx.Param:
    value = stddev * jax.random.normal(key, (*stack, *shape), jnp.float32)
    return nnx.Param(value, axes=("layers",) * len(stack) + axes)


class Dense(nnx.Module):
    """y = x @ kernel, without a bias, in x's dtype."""

    def __init__(self, rngs, stack, shape, axes, stddev):
        self.kernel = _kernel(rngs.params(), stack, shape, axes, stddev)

    def __call__(self, x):
        return kept(matmul(x, self.kernel[...].astype(x.dtype)))


class RMSNorm(nnx.Module):
    """T5's layer norm: no mean, no bias; computed in float32."""

    def __init__(self, stack, width):
        axes = ("layers",) * len(stack) + ("norm",)
        self.scale = nnx.Param(jnp.ones((*stack, width), jnp.float32), axes=axes)

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6)
        return (y * self.scale[...].astype(jnp.float32)[None, None]).astype(x.dtype)


@functools.lru_cache
def _buckets(length: int, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every key-minus-query distance, int32 [2 * length - 1], first -(length - 1)."""
    distance = -np.arange(-(length - 1), length)
    base = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        base = np.where(distance < 0, num_buckets, 0)
        distance = np.abs(distance)
    distance = np.maximum(distance, 0)
    exact = num_buckets // 2
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    far = exact + (np.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)).astype(int)
    bucket = np.where(distance < exact, distance, np.minimum(far, num_buckets - 1))
    return (base + bucket).astype(np.int32)


class RelativeBias(nnx.Module):
    """T5's bias on attention logits: one number per head and bucket of distance."""

    def __init__(self, rngs, stack, config: T5Config, bidirectional: bool):
        shape = (config.num_heads, config.num_buckets)
        self.rel_embedding = _kernel(rngs.params(), stack, shape, ("heads_bias", "buckets"), 0.3)
        self.bidirectional = bidirectional
        self.max_distance = config.max_distance

    def __call__(self, queries: int, keys: int, offset=0) -> jax.Array:
        """float32 [1, H, queries, keys]; query i stands at column `offset + i` (may be traced)."""
        num_buckets = self.rel_embedding.shape[-1]
        table = _buckets(keys, self.bidirectional, num_buckets, self.max_distance)
        distance = jnp.arange(keys)[None, :] - (jnp.arange(queries)[:, None] + offset)
        buckets = jnp.asarray(table)[distance + (keys - 1)]
        return self.rel_embedding[...].astype(jnp.float32)[:, buckets][None]


def _dropout(x, rate, key, shared_dim=1):
    """Inverted dropout whose mask is shared along `shared_dim`, as T5X's is along the length."""
    if key is None or rate == 0.0:
        return x
    shape = list(x.shape)
    shape[shared_dim] = 1
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def _keys(key, n):
    return (None,) * n if key is None else tuple(jax.random.split(key, n))


class Attention(nnx.Module):
    """Multi-head attention; the same class serves self- and cross-attention."""

    def __init__(self, rngs, stack, config: T5Config):
        D, HK = config.emb_dim, config.num_heads * config.head_dim
        split, join = (stack, (D, HK), ("embed", "heads")), (stack, (HK, D), ("heads", "embed"))
        self.query = Dense(rngs, *split, (D * config.head_dim) ** -0.5)
        self.key = Dense(rngs, *split, D**-0.5)
        self.value = Dense(rngs, *split, D**-0.5)
        self.out = Dense(rngs, *join, HK**-0.5)
        self.heads = (config.num_heads, config.head_dim)
        self.rate = config.dropout_rate

    def keys_values(self, x_BTD) -> tuple[jax.Array, jax.Array]:
        """Two arrays [B, T, H, K]."""
        shape = (*x_BTD.shape[:2], *self.heads)
        return self.key(x_BTD).reshape(shape), self.value(x_BTD).reshape(shape)

    def __call__(self, x_BSD, keys_values, bias, mask, dropout_key=None):
        """[B, S, D]; `bias` float32 [1, H, S, T] or None, `mask` bool [B, 1, S, T]."""
        k_BTHK, v_BTHK = keys_values
        q_BSHK = self.query(x_BSD).reshape(*x_BSD.shape[:2], *self.heads)
        logits = jnp.einsum("bshk,bthk->bhst", q_BSHK, k_BTHK, preferred_element_type=jnp.float32)
        logits = jnp.where(mask, logits if bias is None else logits + bias, MASKED)
        weights = _dropout(jax.nn.softmax(logits).astype(x_BSD.dtype), self.rate, dropout_key, 2)
        y_BSHK = jnp.einsum("bhst,bthk->bshk", weights, v_BTHK)
        return self.out(y_BSHK.reshape(*x_BSD.shape[:2], -1))


ACTIVATIONS = {"gelu": jax.nn.gelu, "silu": jax.nn.silu, "relu": jax.nn.relu, "linear": lambda x: x}


class MLP(nnx.Module):
    """One activation (`wi`, T5 1.0) or a product of two (`wi_0`, `wi_1`: gated, T5 1.1)."""

    def __init__(self, rngs, stack, config: T5Config):
        D, F = config.emb_dim, config.mlp_dim
        self.activations = config.mlp_activations
        self.rate = config.dropout_rate
        for name in self._names():
            setattr(self, name, Dense(rngs, stack, (D, F), ("embed", "mlp"), D**-0.5))
        self.wo = Dense(rngs, stack, (F, D), ("mlp", "embed"), F**-0.5)

    def _names(self):
        return ["wi"] if len(self.activations) == 1 else ["wi_0", "wi_1"]

    def __call__(self, x, dropout_key=None):
        parts = [
            ACTIVATIONS[activation](vars(self)[name](x))
            for name, activation in zip(self._names(), self.activations, strict=True)
        ]
        return self.wo(_dropout(functools.reduce(jnp.multiply, parts), self.rate, dropout_key))


class EncoderLayer(nnx.Module):
    def __init__(self, rngs, stack, config: T5Config):
        self.pre_attention_layer_norm = RMSNorm(stack, config.emb_dim)
        self.attention = Attention(rngs, stack, config)
        self.pre_mlp_layer_norm = RMSNorm(stack, config.emb_dim)
        self.mlp = MLP(rngs, stack, config)
        if config.relpos_per_layer:
            self.relpos_bias = RelativeBias(rngs, stack, config, bidirectional=True)
        self.config = config

    def __call__(self, x, bias, mask, dropout_key):
        k = _keys(dropout_key, 4)
        rate, length = self.config.dropout_rate, x.shape[1]
        bias = self.relpos_bias(length, length) if self.config.relpos_per_layer else bias
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, self.attention.keys_values(y), bias, mask, k[0])
        x = kept(split(x + _dropout(y, rate, k[1])))
        y = self.mlp(self.pre_mlp_layer_norm(x), k[2])
        return split(x + _dropout(y, rate, k[3]))


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

    def __call__(self, x, encoded, cache, offset, bias, mask, cross_mask, dropout_key):
        """Without a cache, [B, S, D]; with one, also the cache with these S columns written."""
        k = _keys(dropout_key, 6)
        rate = self.config.dropout_rate
        y = self.pre_self_attention_layer_norm(x)
        now = self.self_attention.keys_values(y)
        if cache is None:
            cross = self.encoder_decoder_attention.keys_values(encoded)
        else:
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
            now = tuple(put(old, new, offset) for old, new in zip(cache["self"], now, strict=True))
            cache, cross = {**cache, "self": now}, cache["cross"]
        if self.config.relpos_per_layer:
            bias = self.relpos_bias(x.shape[1], now[0].shape[1], offset)
        y = self.self_attention(y, now, bias, mask, k[0])
        x = kept(split(x + _dropout(y, rate, k[1])))
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, cross, None, cross_mask, k[2])
        x = kept(split(x + _dropout(y, rate, k[3])))
        y = self.mlp(self.pre_mlp_layer_norm(x), k[4])
        return split(x + _dropout(y, rate, k[5])), cache


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

    def __call__(self, x_BTD, mask_B1TT, dropout_key):
        c, length = self.config, x_BTD.shape[1]
        k = _keys(dropout_key, 3)
        bias = None if c.relpos_per_layer else self.relpos_bias(length, length)
        x = _dropout(x_BTD, c.dropout_rate, k[0])
        call = lambda layer, x, key, _: (layer(x, bias, mask_B1TT, key), None)  # noqa: E731
        x, _ = _scan(self.layers, call, x, c.num_encoder_layers, k[1], c.remat)
        return _dropout(self.encoder_norm(x), c.dropout_rate, k[2])


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

    def __call__(self, x_BSD, encoded, cache, offset, mask, cross_mask, dropout_key):
        """The normed output [B, S, D] and, where one was given, the cache with S more columns."""
        c = self.config
        k = _keys(dropout_key, 3)
        bias = None
        if not c.relpos_per_layer:
            bias = self.relpos_bias(x_BSD.shape[1], mask.shape[-1], offset)
        x = _dropout(x_BSD, c.dropout_rate, k[0])

        def call(layer, x, key, cache):
            return layer(x, encoded, cache, offset, bias, mask, cross_mask, key)

        x, cache = _scan(self.layers, call, x, c.num_decoder_layers, k[1], c.remat, cache)
        return _dropout(self.decoder_norm(x), c.dropout_rate, k[2]), cache


class Embedder(nnx.Module):
    def __init__(self, rngs, config: T5Config):
        shape = (config.vocab_size, config.emb_dim)
        self.embedding = _kernel(rngs.params(), (), shape, ("vocab", "embed"), 1.0)


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
        """The encoder's output [B, T, D] of a batch in T5X's feature names."""
        slots = batch.get("encoder_prompt_slots")
        segments = encoder_segments(batch)
        x = self.embed(batch["encoder_input_tokens"])
        x = insert_rows(x, bundle.encoder, slots, batch.get("encoder_task_ids"))
        mask = segments[:, :, None] == segments[:, None, :]
        policy = visible(bundle.visibility, slots)
        mask = mask if policy is None else mask & policy
        return self.encoder(x, mask[:, None], dropout_key)

    def __call__(self, batch, bundle: PromptBundle = NO_PROMPT, dropout_key=None) -> jax.Array:
        """Logits float32 [B, S, V] under teacher forcing.

        `batch` holds int32 `encoder_input_tokens` [B, T], `decoder_input_tokens` and
        `decoder_target_tokens` [B, S]; optionally `*_segment_ids`, `*_prompt_slots`, `*_task_ids`
        of the same shapes. Without segment ids, columns whose token (for the decoder: target) is
        not 0 are one segment, as in T5X.
        """
        k = _keys(dropout_key, 2)
        return self.decode_logits(self.encode(batch, bundle, k[0]), batch, bundle, k[1])

    def decode_logits(self, encoded_BTD, batch, bundle=NO_PROMPT, dropout_key=None) -> jax.Array:
        """Logits float32 [B, S, V] under teacher forcing, given the encoder's output."""
        slots = batch.get("decoder_prompt_slots")
        x = self.embed(batch["decoder_input_tokens"])
        x = insert_rows(x, bundle.decoder, slots, batch.get("decoder_task_ids"))
        segments = batch.get("decoder_segment_ids")
        if segments is None:
            real = batch["decoder_target_tokens"] > 0
            segments = (real if slots is None else real | (slots > 0)).astype(jnp.int32)
        mask = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        mask = mask & jnp.tril(jnp.ones(mask.shape[1:], bool))[None]
        cross = segments[:, :, None] == encoder_segments(batch)[:, None, :]
        args = (encoded_BTD, None, 0, mask[:, None], cross[:, None])
        y, _ = self.decoder(x, *args, dropout_key)
        return self.logits(y)

    def logits(self, y_BSD: jax.Array) -> jax.Array:
        """float32 [B, S, V] of the decoder's output."""
        if self.config.scale_logits:
            y_BSD = y_BSD * jnp.asarray(self.config.emb_dim**-0.5, y_BSD.dtype)
        if self.config.logits_via_embedding:
            kernel = self.token_embedder.embedding[...].T
        else:
            kernel = self.decoder.logits_dense.kernel[...]
        return matmul(y_BSD, kernel.astype(y_BSD.dtype), jnp.float32)

    def start_cache(self, encoded_BTD: jax.Array, length: int) -> dict[str, Any]:
        """An empty decoder cache for `length` columns: keys and values [L, B, N, H, K] of both
        attentions, those over the encoder filled in."""
        graphdef, stacked = nnx.split(self.decoder.layers)

        def cross(_, arrays):
            layer = nnx.merge(graphdef, arrays)
            return None, layer.encoder_decoder_attention.keys_values(encoded_BTD)

        _, keys_values = jax.lax.scan(cross, None, stacked)
        L, B, _, H, K = keys_values[0].shape
        empty = jnp.zeros((L, B, length, H, K), encoded_BTD.dtype)
        return {"self": (empty, empty), "cross": keys_values}

    def decode_step(self, x_BSD, cache, offset, encoder_mask_BT) -> tuple[jax.Array, Any]:
        """S more columns through the decoder: float32 logits [B, S, V] and the grown cache.

        `x_BSD` are embeddings (`embed`, or the rows of a decoder prompt); `offset`, int32, is the
        column of the first; `encoder_mask_BT`, bool, says which encoder columns are real.
        """
        S, N = x_BSD.shape[1], cache["self"][0].shape[2]
        mask = jnp.arange(N)[None, :] <= jnp.arange(S)[:, None] + offset
        cross = encoder_mask_BT[:, None, None, :]
        y, cache = self.decoder(x_BSD, None, cache, offset, mask[None, None], cross, None)
        return self.logits(y), cache


def encoder_segments(batch) -> jax.Array:
    """int32 [B, T]: the segment of every encoder column, 0 for padding."""
    if "encoder_segment_ids" in batch:
        return batch["encoder_segment_ids"]
    real = batch["encoder_input_tokens"] > 0
    slots = batch.get("encoder_prompt_slots")
    return (real if slots is None else real | (slots > 0)).astype(jnp.int32)
