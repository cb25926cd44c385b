"""Prompts that are mixed for each example by attention over saved ones (Asai et al. 2022).

Equations 1 to 3 of ATTEMPT (https://arxiv.org/abs/2205.11961): with an example's embeddings x, its
pooled text is max(x), feature by feature, over its own columns: never padding, prompt columns or
the neighbours in a packed row. h = LN(SiLU(max(x) down) up), a = softmax over the sources and the
own prompt P of h . max(S_k), and the example carries P + sum_k a_k S_k.

Shapes: B rows of up to N examples, T columns, K sources, P prompt rows, D model width, r `down`'s.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

EPSILON = 1e-5  # of the layer norm, PyTorch's


@struct.dataclass
class Mixture:
    """What the own prompt is mixed with.

    Attributes:
      sources: float32 [K, P, D]; None: nothing is mixed.
      down, up: float32 [D, r] and [r, D].
      scale, bias: float32 [D], of the layer norm, both divided by the temperature of the softmax.
    """

    sources: Any = None
    down: Any = None
    up: Any = None
    scale: Any = None
    bias: Any = None


def insert_mixed(
    x_BTD: jax.Array, mixture: Mixture, own_PD: jax.Array, segments_BT: jax.Array, slots_BT
) -> jax.Array:
    """x with every prompt column replaced by its row of its example's own mixed prompt."""
    if slots_BT is None:
        return x_BTD
    columns, length = x_BTD.shape[1], len(own_PD)
    most = max(columns // (length + 1), 1)  # examples of a row: each has its prompt and a token
    example_BT = jnp.clip(segments_BT - 1, 0, most - 1)
    text_BT = (segments_BT > 0) & (slots_BT == 0)
    seen = jnp.where(text_BT[..., None], x_BTD.astype(jnp.float32), -jnp.inf)
    pool = lambda x_TD, n_T: jax.ops.segment_max(x_TD, n_T, num_segments=most)  # noqa: E731
    pooled_BND = jax.vmap(pool)(seen, example_BT)
    pooled_BND = jnp.where(jnp.isfinite(pooled_BND), pooled_BND, 0.0)  # no such example
    prompts_BNPD = mixed(mixture, own_PD, pooled_BND)
    rows = prompts_BNPD.reshape(len(x_BTD), most * length, -1).astype(x_BTD.dtype)
    index_BT = example_BT * length + jnp.maximum(slots_BT - 1, 0)
    spread = jnp.take_along_axis(rows, index_BT[..., None], axis=1)
    return jnp.where(slots_BT[..., None] > 0, spread, x_BTD)


def mixed(mixture: Mixture, own_PD: jax.Array, pooled_BND: jax.Array) -> jax.Array:
    """float32 [B, N, P, D]: the prompt of each example, whose text is pooled to [B, N, D]."""
    all_KPD = jnp.concatenate([mixture.sources, own_PD[None]])
    weights = attention(mixture, all_KPD, pooled_BND)
    return own_PD[None, None] + jnp.einsum("bnk,kpd->bnpd", weights, all_KPD)


def attention(mixture: Mixture, all_KPD: jax.Array, pooled_BND: jax.Array) -> jax.Array:
    """float32 [B, N, K]: how much of each prompt an example gets; sums to 1."""
    hidden = jax.nn.silu(pooled_BND @ mixture.down) @ mixture.up
    centred = hidden - jnp.mean(hidden, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
    query = normed * mixture.scale[None, None] + mixture.bias[None, None]
    return jax.nn.softmax(jnp.einsum("bnd,kd->bnk", query, jnp.max(all_KPD, axis=1)))
