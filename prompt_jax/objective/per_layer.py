"""Statistics of an update for each layer of a stack, whose arrays hold all layers at once.

The T5 and some methods keep what every layer has in one array with an axis `layers` first. T5X and
transformers have an array for each layer, and Adafactor takes its root mean squares over each.
These are optax's transformations of that purpose, with the root mean square of each layer where the
parameter says that it has such an axis.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def is_stacked(variable: nnx.Variable) -> bool:
    """Whether the first axis of a parameter counts layers: `axes` in its metadata says so."""
    return tuple(variable.get_metadata().get("axes", ()))[:1] == ("layers",)


def root_mean_square(x: jax.Array, stacked: bool) -> jax.Array:
    """Over the whole array, float32 []; of a stacked one [L, 1, ...] over each layer."""
    axes = tuple(range(1, x.ndim)) if stacked else None
    return jnp.sqrt(jnp.mean(x * x, axis=axes, keepdims=stacked))


def map_blocks(function: Callable[..., jax.Array], updates: Any, *others: Any) -> Any:
    """`function(stacked, update, *others)` over the arrays of trees of parameters."""

    def each(update, *rest):
        stacked = isinstance(update, nnx.Variable) and is_stacked(update)
        return jax.tree.map(lambda *arrays: function(stacked, *arrays), update, *rest)

    return jax.tree.map(each, updates, *others, is_leaf=lambda x: isinstance(x, nnx.Variable))


def clip_by_rms(threshold: float) -> optax.GradientTransformation:
    """Scales each layer's update down to this root mean square (Shazeer & Stern 2018, section 6).

    As `optax.clip_by_block_rms` does whole arrays.
    """

    def clip(stacked: bool, update: jax.Array) -> jax.Array:
        return update / jnp.maximum(1.0, root_mean_square(update, stacked) / threshold)

    return optax.stateless(lambda updates, params: map_blocks(clip, updates))


def scale_by_param_rms(least: float = 1e-3) -> optax.GradientTransformation:
    """Multiplies each layer's update by its parameter's root mean square, or `least`.

    Shazeer & Stern 2018, section 8. As `optax.scale_by_param_block_rms` does whole arrays.
    """

    def scale(stacked: bool, update: jax.Array, param: jax.Array) -> jax.Array:
        return update * jnp.maximum(root_mean_square(param, stacked), least)

    return optax.stateless(lambda updates, params: map_blocks(scale, updates, params))
