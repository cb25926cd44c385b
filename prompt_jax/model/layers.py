"""The parts that the layers of a T5 are made of: matrices, norm, position bias, attention, MLP.

Raffel et al. 2020 (https://arxiv.org/abs/1910.10683); the shapes' letters are those of `t5.py`.
What a method changes of a part (`bundle.py`) comes in beside its input, without the layer axis L.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prompt_jax.model import attend
from prompt_jax.model.activations import saveable
from prompt_jax.model.bundle import NOWHERE, AttentionEdit, DenseEdit, LayerEdit
from prompt_jax.model.quantised import matmul

NO_CHANGE = DenseEdit()


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
    attention: str = "xla"  # one of `attend.KERNELS`


def kernel(key, stack, shape, axes, stddev) -> nnx.Param:
    value = stddev * jax.random.normal(key, (*stack, *shape), jnp.float32)
    return nnx.Param(value, axes=("layers",) * len(stack) + axes)


class Dense(nnx.Module):
    """y = x @ kernel, without a bias, in x's dtype; `edit` changes it as `DenseEdit` says, with
    arrays for all rows or, with an axis B first, for each."""

    def __init__(self, rngs, stack, shape, axes, stddev):
        self.kernel = kernel(rngs.params(), stack, shape, axes, stddev)

    def __call__(self, x, edit: DenseEdit = NO_CHANGE):
        x = _scaled(x, edit.input_scale)
        y = matmul(x, self.kernel[...].astype(x.dtype))
        if edit.a is not None and edit.b is not None:
            y = y + (x @ edit.a.astype(x.dtype)) @ edit.b.astype(x.dtype)
        return saveable(_scaled(y, edit.output_scale))


def _scaled(x_BTI, scale) -> jax.Array:
    """x times `scale`, [I] for all rows or [B, I]."""
    if scale is None:
        return x_BTI
    return x_BTI * scale.astype(x_BTI.dtype).reshape(-1, 1, scale.shape[-1])


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
def distance_buckets(
    reach: int, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Bucket of every key-minus-query distance from -reach to reach, int32 [2 * reach + 1]."""
    distance = -np.arange(-reach, reach + 1)
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
        self.rel_embedding = kernel(rngs.params(), stack, shape, ("heads_bias", "buckets"), 0.3)
        self.bidirectional = bidirectional
        self.max_distance = config.max_distance

    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """float32 [1 or B, H, S, T] for the positions of queries and keys, int32 [S] or [B, S],
        and [T] or [B, T]. Farther than `max_distance` all distances are alike."""
        reach, buckets = self.max_distance, self.rel_embedding.shape[-1]
        table = distance_buckets(reach, self.bidirectional, buckets, self.max_distance)
        queries, keys = jnp.atleast_2d(queries), jnp.atleast_2d(keys)
        distance_BST = keys[:, None, :] - queries[:, :, None]
        bucket_BST = jnp.asarray(table)[jnp.clip(distance_BST, -reach, reach) + reach]
        return self.rel_embedding[...].astype(jnp.float32)[:, bucket_BST].swapaxes(0, 1)

    def of_text(
        self, queries: jax.Array, keys: jax.Array, before_BSP: jax.Array | None
    ) -> jax.Array:
        """float32 [1 or B, H, S, P + T]: of queries and keys, after that of the P keys at distances
        `before` from the queries (`of_distances`); None: there are no such keys."""
        bias = self(queries, keys)
        if before_BSP is None:
            return bias
        before = self.of_distances(before_BSP)
        rows = max(len(before), len(bias))
        both = (jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in (before, bias))
        return jnp.concatenate([*both], -1)

    def of_distances(self, distance_BTP: jax.Array) -> jax.Array:
        """float32 [B, H, T, P] for int32 distances, each of a key minus its query; NOWHERE: 0."""
        reach, buckets = self.max_distance, self.rel_embedding.shape[-1]
        table = distance_buckets(reach, self.bidirectional, buckets, self.max_distance)
        bucket_BTP = jnp.asarray(table)[jnp.clip(distance_BTP, -reach, reach) + reach]
        bias_HBTP = self.rel_embedding[...].astype(jnp.float32)[:, bucket_BTP]
        return jnp.where((distance_BTP == NOWHERE)[:, None], 0.0, bias_HBTP.swapaxes(0, 1))


def within_segments(segments_BT: jax.Array, positions_P: jax.Array) -> jax.Array:
    """int32 [B, T, P]: the distance of keys that every segment of a row has for itself, from each
    column. Positions int32 [P] or [B, P] below 0 count back from the segment's first column, others
    on from behind its last; NOWHERE has none."""
    T = segments_BT.shape[1]
    columns_1T = jnp.arange(T, dtype=jnp.int32)[None]
    change = segments_BT[:, 1:] != segments_BT[:, :-1]
    begins = jnp.pad(change, ((0, 0), (1, 0)), constant_values=True)
    ends = jnp.pad(change, ((0, 0), (0, 1)), constant_values=True)
    first_BT = jax.lax.cummax(jnp.where(begins, columns_1T, 0), axis=1)
    last_BT = jax.lax.cummin(jnp.where(ends, columns_1T, T - 1), axis=1, reverse=True)
    positions = jnp.atleast_2d(positions_P)[:, None, :]
    from_first, from_behind = first_BT - columns_1T, last_BT + 1 - columns_1T
    distance = positions + jnp.where(positions < 0, from_first[..., None], from_behind[..., None])
    return jnp.where(positions == NOWHERE, NOWHERE, distance)


def from_queries(queries_BS: jax.Array, positions_P: jax.Array) -> jax.Array:
    """int32 [B, S, P]: the distance of keys at positions [P] or [B, P] from each query; NOWHERE has
    none."""
    positions = jnp.atleast_2d(positions_P)[:, None, :]
    distance = positions - queries_BS[..., None]
    return jnp.where(positions == NOWHERE, NOWHERE, distance)


def dropout(x, rate, key, shared_dim: int | None = 1):
    """Inverted dropout whose mask is shared along `shared_dim`, as T5X's is along the length;
    None: along no axis."""
    if key is None or rate == 0.0:
        return x
    shape = list(x.shape)
    if shared_dim is not None:
        shape[shared_dim] = 1
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def split_keys(key, n):
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
        self.rate, self.kernel = config.dropout_rate, config.attention

    def keys_values(self, x_BTD, edit: AttentionEdit) -> tuple[jax.Array, jax.Array]:
        """Two arrays [B, T, H, K], those of `edit.keys` and `edit.values` not among them."""
        shape = (*x_BTD.shape[:2], *self.heads)
        k, v = self.key(x_BTD, edit.key), self.value(x_BTD, edit.value)
        return k.reshape(shape), v.reshape(shape)

    def __call__(self, x_BSD, keys_values, bias, mask, edit: AttentionEdit, dropout_key=None):
        """[B, S, D]; `bias` float32 [1 or B, H, S, T] or None, `mask` bool [B, 1, S, T].

        P keys and values of `edit` come before the T; their bias is 0 where `bias` has T columns
        and no more. Every query sees them.
        """
        q, k, v, bias, mask = self._seen(x_BSD, keys_values, bias, mask, edit)
        kernel = attend.kernel_for(self.kernel, q.shape[1], k.shape[1])
        if kernel == "xla":
            weights = attend.softmax(q, k, bias, mask).astype(x_BSD.dtype)
            weights = dropout(weights, self.rate, dropout_key, 2)
            y_BSHK = jnp.einsum("bhst,bthk->bshk", weights, v)
        else:
            y_BSHK = attend.fused(kernel, q, k, v, bias, mask)
        return self.out(y_BSHK.reshape(*x_BSD.shape[:2], -1), edit.out)

    def weights(self, x_BSD, keys_values, bias, mask, edit: AttentionEdit) -> jax.Array:
        """What each query gives to each key, float32 [B, H, S, P + T]; arguments as of a call."""
        q, k, _, bias, mask = self._seen(x_BSD, keys_values, bias, mask, edit)
        return attend.softmax(q, k, bias, mask)

    def _seen(self, x_BSD, keys_values, bias, mask, edit: AttentionEdit):
        """Queries [B, S, H, K]; keys and values [B, P + T, H, K], bias and mask with the P."""
        k_BTHK, v_BTHK = keys_values
        if edit.keys is not None and edit.values is not None:
            k_BTHK = self._preceded(edit.keys, k_BTHK)
            v_BTHK = self._preceded(edit.values, v_BTHK)
            mask = self._mask(mask, edit, x_BSD.shape[0])
            bias = None if bias is None else _widened(bias, k_BTHK.shape[1], 0.0)
        q_BSHK = self.query(x_BSD, edit.query).reshape(*x_BSD.shape[:2], *self.heads)
        return q_BSHK, k_BTHK, v_BTHK, bias, mask

    def _preceded(self, rows, x_BTHK) -> jax.Array:
        """[B, P + T, H, K]: rows [P, H * K] or [B, P, H * K] before x, in its dtype."""
        B, P = x_BTHK.shape[0], rows.shape[-2]
        rows = rows.astype(x_BTHK.dtype).reshape(-1, P, *self.heads)
        return jnp.concatenate([jnp.broadcast_to(rows, (B, P, *self.heads)), x_BTHK], axis=1)

    @staticmethod
    def _mask(mask, edit: AttentionEdit, rows: int) -> jax.Array:
        """`mask` with columns for the P keys before its own: all seen, or those present."""
        assert edit.keys is not None
        P = edit.keys.shape[-2]
        if edit.present is None:
            return _widened(mask, P + mask.shape[-1], True)
        present = edit.present.reshape(len(edit.present) if edit.present.ndim > 1 else 1, 1, -1, P)
        mask = jnp.broadcast_to(mask, (rows, *mask.shape[1:]))
        present = jnp.broadcast_to(present, (rows, 1, mask.shape[2], P))
        return jnp.concatenate([present, mask], axis=-1)


def _widened(x, keys: int, value) -> jax.Array:
    """x [..., T] with `value` in new columns before its own, so that there are `keys` of them."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(keys - x.shape[-1], 0)], constant_values=value)


ACTIVATIONS = {
    "gelu": jax.nn.gelu,  # by tanh, as T5X's
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "linear": lambda x: x,
}


class MLP(nnx.Module):
    """One activation (`wi`, T5 1.0) or a product of two (`wi_0`, `wi_1`: gated, T5 1.1)."""

    def __init__(self, rngs, stack, config: T5Config):
        D, F = config.emb_dim, config.mlp_dim
        self.activations = config.mlp_activations
        self.rate = config.dropout_rate
        wide = (stack, (D, F), ("embed", "mlp"), D**-0.5)
        if len(self.activations) == 1:
            self.wi = Dense(rngs, *wide)
        else:
            self.wi_0, self.wi_1 = Dense(rngs, *wide), Dense(rngs, *wide)
        self.wo = Dense(rngs, stack, (F, D), ("mlp", "embed"), F**-0.5)

    def __call__(self, x, edit: LayerEdit, dropout_key=None):
        if len(self.activations) == 1:
            factors = [self.wi(x, edit.wi)]
        else:
            factors = [self.wi_0(x, edit.wi_0), self.wi_1(x, edit.wi_1)]
        named = zip(self.activations, factors, strict=True)
        parts = [ACTIVATIONS[activation](factor) for activation, factor in named]
        x = dropout(functools.reduce(jnp.multiply, parts), self.rate, dropout_key)
        return self.wo(x, edit.wo)
